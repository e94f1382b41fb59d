//! The tables, readable in a terminal and as Markdown.

use crate::cases::{Better, Case, Metric, Work};
use crate::contestants::Contestant;
use crate::counting;
use crate::record::Record;
use crate::statistics::median;
use crate::targets::{self, Verdict};

/// Prints tests and peers by the names that the command line takes.
pub(crate) fn list() {
    println!("tests (* with --quick):");
    list_cases(true);
    println!("tests with --identity, and who takes part:");
    list_cases(false);
    println!("peers:");
    for peer in Contestant::PEERS {
        println!("   {:15} {}", peer.name(), peer.packages().join(", "));
    }
}

fn list_cases(is_plain: bool) {
    for case in Case::all().iter().filter(|case| case.is_plain() == is_plain) {
        println!("  {}{:23} {}", if case.is_quick { '*' } else { ' ' }, case.id, case.title);
        if !is_plain {
            let who: Vec<_> =
                Contestant::ALL.into_iter().filter(|who| case.is_for(*who)).map(Contestant::name).collect();
            println!("{:26} ({})", "", who.join("; "));
        }
    }
}

/// Prints everything.
pub(crate) fn print(record: &Record) {
    println!("\n{}", record.setting.text());
    println!(
        "{:.0} s, of which {:.0} s were waiting for a fast phase of the machine; {} pieces of work were done again",
        record.took_s, record.waited_s, record.discarded
    );
    for case in Case::all().iter().filter(|case| record.cells.iter().any(|cell| cell.case == case.id)) {
        print_case(record, case);
    }
    print_targets(record);
    for failure in &record.failures {
        println!("failed: {failure}");
    }
}

fn print_case(record: &Record, case: &Case) {
    println!("\n### {}: {}\n", case.id, case.title);
    let mut table = Table::new(["median [best]".to_owned()]);
    table.rows[0].extend(case.metrics.iter().map(|metric| metric.heading.to_owned()));
    let compared = || case.metrics.iter().filter(|metric| metric.is_compared);
    table.rows[0].extend(compared().map(|metric| format!("ours ÷ it: {}", metric.heading)));
    for contestant in Contestant::ALL.into_iter().filter(|contestant| has_values(record, case, *contestant)) {
        let mut row = vec![contestant.name().to_owned()];
        row.extend(case.metrics.iter().map(|metric| values(record, case, contestant, metric)));
        row.extend(compared().map(|metric| ratio(record, case, contestant, metric)));
        table.rows.push(row);
    }
    table.print();
    if !case.is_plain() && !matches!(case.work, Work::Count { .. }) {
        println!("\n{}", case.mode.setting());
    }
    if matches!(case.work, Work::Count { .. }) {
        println!("\n{}", counting::HOW);
    }
    if record.is_mostly_slow(case) {
        println!(
            "\nThe machine was slow or busy with something else most of the time: take these for nothing but ratios."
        );
    }
    if matches!(case.work, Work::Connect { idle: 1.. }) {
        println!("\nPeers with a process for each connection are left out: so many processes are no work for a round.");
    }
    if matches!(case.work, Work::Mappings) {
        println!("\nPeers with a process for each mapping: 50 are started, and the figures multiplied by 20.");
    }
}

fn has_values(record: &Record, case: &Case, contestant: Contestant) -> bool {
    record.cells.iter().any(|cell| cell.case == case.id && cell.contestant == contestant.name())
}

fn values(record: &Record, case: &Case, contestant: Contestant, metric: &Metric) -> String {
    let values = record.values(case, contestant, metric.key);
    let Some(middle) = median(values.values().copied()) else { return "–".to_owned() };
    let best = values.values().copied().fold(middle, |best, value| match metric.better {
        Better::More => best.max(value),
        Better::Less => best.min(value),
    });
    format!("{middle:.0$} [{best:.0$}]", metric.digits)
}

fn ratio(record: &Record, case: &Case, contestant: Contestant, metric: &Metric) -> String {
    if contestant == Contestant::Portolan {
        return String::new();
    }
    let pairs = record.pairs(case, contestant, metric.key);
    let ratios = pairs.into_iter().filter(|(_, theirs)| theirs.abs() > 1e-9).map(|(ours, theirs)| ours / theirs);
    median(ratios).map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"))
}

fn print_targets(record: &Record) {
    println!("\n### To reach\n");
    let mut table = Table::new(["test", "figure", "asked", "found", "rounds", "verdict"].map(str::to_owned));
    for target in &targets::ALL {
        let verdict = target.verdict(record);
        if verdict == Verdict::NotMeasured {
            continue;
        }
        let case = target.case();
        let found = target.found(record).map(|found| match found {
            found if found.abs() >= 100.0 => format!("{found:.0}"),
            found => format!("{found:.2}"),
        });
        let rounds = target.rounds(record);
        table.rows.push(vec![
            case.id.to_owned(),
            target.heading().to_owned(),
            target.asked(),
            found.unwrap_or_default(),
            rounds.to_string(),
            verdict.text().to_owned(),
        ]);
    }
    table.print();
    let count = |verdict| targets::ALL.iter().filter(|target| target.verdict(record) == verdict).count();
    println!(
        "\n{} reached, {} within 5 %, {} short, {} not measured",
        count(Verdict::Reached),
        count(Verdict::Within),
        count(Verdict::Short),
        count(Verdict::NotMeasured)
    );
}

/// A Markdown table whose columns are aligned.
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(heading: impl Into<Vec<String>>) -> Self {
        Self { rows: vec![heading.into()] }
    }

    fn print(&self) {
        let widths: Vec<usize> = (0..self.rows[0].len())
            .map(|column| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        for (nth, row) in self.rows.iter().enumerate() {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            println!("| {} |", cells.join(" | "));
            if nth == 0 {
                let lines: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
                println!("| {} |", lines.join(" | "));
            }
        }
    }
}
