//! Hit ratios over capacity, as SVG.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

/// Draws a line for each name; `ratios[capacity][name]`.
pub(crate) fn plot(
    path: &Path,
    title: &str,
    capacities: &[u64],
    names: &[&str],
    ratios: &[Vec<f64>],
) -> Result<(), Box<dyn Error>> {
    let area = SVGBackend::new(path, (900, 560)).into_drawing_area();
    area.fill(&WHITE)?;
    let ends = capacities.first().zip(capacities.last()).ok_or("no capacities")?;
    let range = *ends.0 as f64..(*ends.1 as f64).max(*ends.0 as f64 + 1.0);
    let top = ratios.iter().flatten().fold(1.0, |top: f64, &ratio| top.max(ratio));
    let mut chart = ChartBuilder::on(&area)
        .caption(format!("{title}: hits in % over capacity"), ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(32)
        .y_label_area_size(44)
        .build_cartesian_2d(range.log_scale(), 0.0..top * 1.05)?;
    chart.configure_mesh().light_line_style(WHITE).draw()?;
    for (number, name) in names.iter().enumerate() {
        let color = Palette99::pick(number).to_rgba().stroke_width(if number == 0 { 4 } else { 2 });
        let points =
            capacities.iter().zip(ratios).map(|(&capacity, ratios)| (capacity as f64, ratios[number]));
        let line = chart.draw_series(LineSeries::new(points, color))?;
        line.label(*name).legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3)).draw()?;
    area.present()?;
    Ok(())
}
