//! The rules of the house that a compiler does not check: layers, sizes, who may name what.
#![cfg(not(floodwall_loom))]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Lowest first. A module imports only from lower layers; the modules of one layer never import each other.
const LAYERS: &[&[&str]] = &[
    &["error"],
    &["event"],
    &["sync"],
    &["hash", "lanes", "park", "places", "prefetch", "rng", "shards", "short", "slab"],
    &["backoff", "clock", "histogram", "window"],
    &["answer", "bell", "call", "discipline", "judge", "setters", "wait"],
    &["gate", "semaphore"],
    &["acquire"],
    &["flight"],
    &["breaker", "bulkhead", "cache", "concurrency", "limit", "pool", "queue", "shard", "shed", "throttle"],
    &["headers", "waiting_room", "workers"],
    &["keyed"],
    &["keyed_pool"],
    &["policy"],
    &["store"],
];

/// Adapters use what the crate exports, and the one lock.
const ADAPTERS: &[&str] = &["tower"];

fn source(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            source(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// (module, path, text) of every file but the front door, up to its tests.
fn modules() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    source(&root, &mut files);
    assert!(files.len() > 15, "the source was not found");
    files
        .into_iter()
        .filter(|path| !path.ends_with("lib.rs"))
        .map(|path| {
            let first = path.strip_prefix(&root).unwrap().components().next().unwrap();
            let module = first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
            let text = fs::read_to_string(&path).unwrap();
            let code = text.find("\n#[cfg(test)]").or(text.find("\n#[cfg(all(test")).unwrap_or(text.len());
            (module, path, text[..code].to_owned())
        })
        .collect()
}

#[test]
fn imports_point_down_the_layers() {
    let layer: BTreeMap<_, _> = LAYERS
        .iter()
        .enumerate()
        .flat_map(|(number, names)| names.iter().map(move |name| (*name, number)))
        .collect();
    let mut imports = 0;
    for (module, path, text) in modules() {
        for (line, import) in text.lines().enumerate().filter_map(|(line, text)| {
            let import = text.trim_start().strip_prefix("use crate::")?;
            Some((line + 1, import.split([':', ';', ' ', '{']).next()?))
        }) {
            imports += 1;
            let place = format!("{}:{line}: {module} imports {import}", path.display());
            if ADAPTERS.contains(&module.as_str()) {
                assert!(["sync", ""].contains(&import), "{place}: adapters use the public names");
                continue;
            }
            let from = layer.get(module.as_str()).unwrap_or_else(|| panic!("{place}: {module} has no layer"));
            let to = layer.get(import).unwrap_or_else(|| panic!("{place}: {import} has no layer"));
            assert!(to < from || module == import, "{place}, which is not below it");
        }
    }
    assert!(imports > 50, "only {imports} imports were found");
}

#[test]
fn only_one_file_names_locks_and_atomics_and_nobody_starts_a_thread() {
    for (module, path, text) in modules() {
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap();
            let place = format!("{}:{}: {}", path.display(), number + 1, line.trim());
            let names = ["std::sync::atomic", "std::sync::Mutex", "std::sync::OnceLock", "parking_lot"];
            assert!(module == "sync" || !names.iter().any(|name| code.contains(name)), "{place}");
            let starts = ["thread::spawn", "tokio::spawn", "task::spawn"];
            assert!(!starts.iter().any(|start| code.contains(start)), "{place}");
            let reads = module == "clock" || module == "park";
            assert!(
                reads || !code.contains("Instant::now()") && !code.contains("SystemTime::now()"),
                "{place}"
            );
        }
    }
}

#[test]
fn files_fit_into_ones_head() {
    for (_, path, text) in modules() {
        let lines = text.lines().count();
        assert!(lines <= 500, "{} has {lines} lines: find the idea that splits it", path.display());
        assert!(text.starts_with("//! "), "{} does not say what it is for", path.display());
    }
}
