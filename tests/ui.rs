//! The compile errors that we promise, with their words.
#![cfg(not(floodwall_loom))]

/// The wording around our own messages changes with the compiler, so it is compared under the one that wrote it down;
/// that the code does not compile is also checked by the documentation's tests, under every compiler.
const RECORDED_WITH: &str = "rustc 1.95.";

#[test]
fn mistakes_are_explained() {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version =
        std::process::Command::new(rustc).arg("--version").output().expect("cargo's own rustc runs");
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    if !version.starts_with(RECORDED_WITH) {
        println!("skipped: the messages were recorded with {RECORDED_WITH}x, this is {version}");
        return;
    }
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
