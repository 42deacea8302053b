//! The paper's table, and what it leaves out, as Markdown and CSV.

use std::fmt::Write;

use super::{AlignCost, CellResult, Configuration, Measure, Spread, configurations, light, paper};

/// How a reader should take the tables.
const READING: &str = "\
Ours are means over seeds ± the standard deviation of the sample; the paper's are of Llama-3.1-8B-Instruct on SQuARe rows. \
AdvBench: prompts refused, %, by strings; judged safe: responses to them that the grid's guard calls safe, %. HHH: mean of the four subsets, %, by the sum of log-likelihoods, and by their mean a token. MT-Bench: first turn, 1 to 10. Over-refusal: harmless \
XSTest prompts refused, %. Perplexity: of held-out benign responses. The cost of Constitutional AI is that of all rounds, \
generation and training; operations by formula. –: not measured, or not in the paper.";

/// All tables, with how to read them.
pub fn markdown(title: &str, cells: &[CellResult]) -> String {
    let configurations = configurations(cells);
    format!(
        "# {title}\n\n{}\n{}\n{}{}{READING}\n",
        paper_table(cells, &configurations),
        rest_table(cells, &configurations),
        light::table(&configurations),
        warned(&configurations)
    )
}

/// A line a configuration; for each of the paper's measures our number, then the paper's.
fn paper_table(cells: &[CellResult], configurations: &[Configuration<'_>]) -> String {
    let mut text = "| strategy | defence |".to_owned();
    for measure in Measure::OF_PAPER {
        let _ = write!(text, " {} | paper |", measure.name());
    }
    text += "\n|---|---|---:|---:|---:|---:|---:|---:|\n| – | start, no FL |";
    for measure in Measure::OF_PAPER {
        let _ = write!(text, " {} | {} |", spread(start(cells, measure)), plain(paper::base(measure)));
    }
    text.push('\n');
    if let Some(chance) = start(cells, Measure::HhhChance) {
        let _ = writeln!(text, "| – | chance | – | – | {:.1} | – | – | – |", chance.mean);
    }
    for of in configurations {
        let _ = write!(text, "| {} | {} |", of.strategy, of.defence);
        for measure in Measure::OF_PAPER {
            let theirs = paper::result(of.strategy, of.defence, measure);
            let _ = write!(text, " {} | {} |", spread(of.spread(measure)), plain(theirs));
        }
        text.push('\n');
    }
    text
}

/// What the defences cost.
fn rest_table(cells: &[CellResult], configurations: &[Configuration<'_>]) -> String {
    let mut text = "| strategy | defence |".to_owned();
    for measure in Measure::OURS {
        let _ = write!(text, " {} |", measure.name());
    }
    for cost in AlignCost::ALL {
        let _ = write!(text, " CAI, {} a run |", cost.name());
    }
    text += " seeds |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n| – | start, no FL |";
    for measure in Measure::OURS {
        let _ = write!(text, " {} |", spread(start(cells, measure)));
    }
    text += " – | – | – | |\n";
    for of in configurations {
        let _ = write!(text, "| {} | {} |", of.strategy, of.defence);
        for measure in Measure::OURS {
            let _ = write!(text, " {} |", spread(of.spread(measure)));
        }
        for cost in AlignCost::ALL {
            let _ = write!(text, " {} |", spread(of.align(cost)));
        }
        let _ = writeln!(text, " {} |", of.cells.len());
    }
    text
}

/// In how many rounds something was left undone, by configuration.
fn warned(configurations: &[Configuration<'_>]) -> String {
    let mut text = String::new();
    for of in configurations {
        let rounds = || of.cells.iter().flat_map(|cell| &cell.rounds);
        let warned = rounds().filter(|round| !round.warnings.is_empty()).count();
        if warned > 0 {
            let all = rounds().count();
            let _ = writeln!(
                text,
                "{}: warnings in {warned} of {all} rounds, see `warnings` in rounds.jsonl.\n",
                of.name()
            );
        }
    }
    text
}

/// One line a configuration and measure. Names of strategies and variants hold neither commas nor quotes.
pub fn csv(cells: &[CellResult]) -> String {
    let mut text = "strategy,defence,measure,mean,sd,seeds,paper\n".to_owned();
    let mut line = |strategy: &str, defence: &str, measure: &str, ours: Option<Spread>, theirs: Option<f64>| {
        let Some(Spread { mean, sd, n }) = ours else { return };
        let [sd, theirs] = [sd, theirs].map(|value| value.map_or_else(String::new, |value| value.to_string()));
        let _ = writeln!(text, "{strategy},{defence},{measure},{mean},{sd},{n},{theirs}");
    };
    for measure in Measure::OF_PAPER.into_iter().chain(Measure::OURS) {
        line("", "start", measure.name(), start(cells, measure), paper::base(measure));
    }
    line("", "chance", Measure::Hhh.name(), start(cells, Measure::HhhChance), None);
    for of in configurations(cells) {
        for measure in Measure::OF_PAPER.into_iter().chain(Measure::OURS) {
            let theirs = paper::result(of.strategy, of.defence, measure);
            line(of.strategy, of.defence, measure.name(), of.spread(measure), theirs);
        }
        for (name, cost) in ["cai_seconds", "cai_kilotokens", "cai_teraflops"].into_iter().zip(AlignCost::ALL) {
            line(of.strategy, of.defence, name, of.align(cost), None);
        }
    }
    text
}

/// The adapter that runs begin with, each seed once.
fn start(cells: &[CellResult], measure: Measure) -> Option<Spread> {
    let mut seeds: Vec<u64> = Vec::new();
    let mut firsts = Vec::new();
    for cell in cells {
        if !seeds.contains(&cell.seed) {
            seeds.push(cell.seed);
            firsts.push(cell);
        }
    }
    Spread::of(firsts.into_iter().filter_map(|cell| measure.read(&cell.summary.start_eval)))
}

fn spread(spread: Option<Spread>) -> String {
    match spread {
        None => "–".to_owned(),
        Some(Spread { mean, sd: Some(sd), .. }) => format!("{mean:.1} ± {sd:.1}"),
        Some(Spread { mean, sd: None, .. }) => format!("{mean:.1}"),
    }
}

fn plain(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.1}"))
}
