//! From the figures of all rounds to a table in Markdown.

use std::{iter, time::Duration};

use super::{case::Case, lab::Side};

/// What one measurement gave: a figure for each of its rows, or why there is none.
pub(crate) type Outcome = Result<Vec<f64>, String>;

/// The outcomes of a case, round by round.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    node: Vec<Outcome>,
    ours: Vec<Outcome>,
}

impl Rounds {
    pub(crate) fn of_mut(&mut self, side: Side) -> &mut Vec<Outcome> {
        match side {
            Side::Node => &mut self.node,
            Side::Ours => &mut self.ours,
        }
    }
}

/// A line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    label: String,
    bar: Bar,
}

impl Row {
    /// `label` names the unit.
    pub(crate) fn new(label: String, bar: Bar) -> Self {
        Self { label, bar }
    }
}

/// What our figure must reach; all rows with a bar are better when smaller.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bar {
    None,
    /// At most this share of the other side's.
    Ratio(f64),
    /// At most this.
    Value(f64),
}

impl Bar {
    fn verdict(self, node: Option<f64>, ours: Option<f64>) -> String {
        let (bar, reached) = match self {
            Self::None => return String::new(),
            Self::Ratio(most) => (
                format!("ratio <= {most:.2}"),
                node.zip(ours).map(|(node, ours)| ours / node <= most),
            ),
            Self::Value(most) => (format!("ours <= {most}"), ours.map(|ours| ours <= most)),
        };
        let verdict = match reached {
            Some(true) => "met",
            Some(false) => "missed",
            None => "unknown",
        };
        format!("{bar}: {verdict}")
    }
}

/// The whole table.
pub(crate) fn render(results: &[(Case, Rounds)]) -> String {
    let mut lines = vec![["", "Node", "ours", "ours/Node", "bar"].map(str::to_owned)];
    for (case, rounds) in results {
        for (index, Row { label, bar }) in case.rows().into_iter().enumerate() {
            let (node, node_cell) = summary(&rounds.node, index);
            let (ours, ours_cell) = summary(&rounds.ours, index);
            let ratio = node.zip(ours).map(|(node, ours)| format!("{:.2}", ours / node));
            let verdict = bar.verdict(node, ours);
            lines.push([label, node_cell, ours_cell, ratio.unwrap_or_default(), verdict]);
        }
    }
    markdown(&lines)
}

/// The median of a row over the rounds that gave it, and its cell with what went wrong.
fn summary(rounds: &[Outcome], row: usize) -> (Option<f64>, String) {
    let mut figures: Vec<f64> =
        rounds.iter().flatten().filter_map(|figures| figures.get(row).copied()).collect();
    let failures = rounds.len() - figures.len();
    let median = median(&mut figures);
    let cell = match (median, rounds.iter().find_map(|round| round.as_ref().err())) {
        (Some(median), None) => figure(median),
        (Some(median), Some(_)) => {
            format!("{} ({failures} of {} rounds failed)", figure(median), rounds.len())
        }
        (None, Some(reason)) => format!("failed: {}", short(reason)),
        (None, None) => "not measured".to_owned(),
    };
    (median, cell)
}

/// The middle of all values, or the mean of the two in the middle; sorts them.
pub(crate) fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2)?;
    let lower = values.get((values.len() - 1) / 2)?;
    Some(f64::midpoint(*lower, *upper))
}

/// The smallest of these sorted values that at least `share` of them do not exceed (the nearest
/// rank); zero when there are none.
pub(crate) fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// A figure with about three digits that mean something.
fn figure(value: f64) -> String {
    let decimals = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

/// A reason as it fits into a cell: one line, no column mark, no essay.
fn short(reason: &str) -> String {
    let line = reason.lines().next().unwrap_or_default().replace('|', "/");
    let mut chars = line.chars();
    let start: String = chars.by_ref().take(LONGEST_REASON).collect();
    if chars.next().is_some() { start + "..." } else { start }
}

fn markdown<const COLUMNS: usize>(lines: &[[String; COLUMNS]]) -> String {
    let width =
        |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0).max(3);
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let row = |cells: &[String; COLUMNS]| {
        let cells = cells.iter().zip(widths).map(|(cell, width)| format!(" {cell:width$} |"));
        iter::once("|".to_owned()).chain(cells).chain(iter::once("\n".to_owned())).collect()
    };
    let rule = widths.map(|width| "-".repeat(width));
    let mut rows: Vec<String> = lines.iter().map(row).collect();
    rows.insert(rows.len().min(1), row(&rule));
    rows.concat()
}

const LONGEST_REASON: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        assert_eq!(median(&mut []), None);
        assert_eq!(median(&mut [7.0]), Some(7.0));
        assert_eq!(median(&mut [9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let sorted: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&sorted, 0.5), Duration::from_millis(100));
        assert_eq!(percentile(&sorted, 0.99), Duration::from_millis(198));
        assert_eq!(percentile(&sorted, 1.0), Duration::from_millis(200));
        assert_eq!(percentile(&sorted[..1], 0.99), Duration::from_millis(1));
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }

    #[test]
    fn figures_keep_three_digits() {
        for (value, text) in [(6330.4, "6330"), (66.66, "66.7"), (1.234, "1.23"), (0.2, "0.200")] {
            assert_eq!(figure(value), text);
        }
    }

    #[test]
    fn a_failed_round_shows_in_its_cell() {
        let failed = || Err("502: stalled | here\nand more".to_owned());
        let cell = |rounds: &[Outcome]| summary(rounds, 1).1;
        assert_eq!(cell(&[failed(), failed()]), "failed: 502: stalled / here");
        assert_eq!(
            cell(&[Ok(vec![0.0, 2.0]), failed(), Ok(vec![0.0, 4.0])]),
            "3.00 (1 of 3 rounds failed)",
        );
        assert_eq!(short(&"x".repeat(81)), "x".repeat(80) + "...");
    }

    #[test]
    fn bars_compare_by_ratio_or_by_value() {
        let third = Bar::Ratio(1.0 / 3.0);
        assert_eq!(third.verdict(Some(90.0), Some(30.0)), "ratio <= 0.33: met");
        assert_eq!(third.verdict(Some(90.0), Some(31.0)), "ratio <= 0.33: missed");
        assert_eq!(third.verdict(None, Some(31.0)), "ratio <= 0.33: unknown");
        assert_eq!(Bar::Value(0.2).verdict(None, Some(0.19)), "ours <= 0.2: met");
        assert_eq!(Bar::None.verdict(Some(1.0), Some(2.0)), "");
    }

    #[test]
    fn every_row_of_a_case_is_a_line() {
        let mut rounds = Rounds::default();
        rounds.of_mut(Side::Node).push(Ok(vec![100.0, 142.0]));
        rounds.of_mut(Side::Ours).push(Ok(vec![10.0, 20.0]));
        let table = render(&[(Case::Memory, rounds)]);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[1].starts_with("|--") || lines[1].starts_with("| --"));
        assert!(lines[3].contains(" 142 ") && lines[3].contains(" 0.14 "), "{table}");
        assert!(lines[3].contains("ours <= 25: met"), "{table}");
    }
}
