//! The paper's table, and what it leaves out, as Markdown and CSV.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use fedward_actors::ports::Evaluation;

use super::{
    CellResult, Configuration, RowShare, Spread, cai, configurations, guard, light, matrix, measures_of, pairs, paper,
    read, read_chance,
};
use crate::eval::measure::{GridTable, Measure};

/// How a reader should take the tables.
const READING: &str = "\
Means over seeds ± the standard deviation of the sample; in brackets the paper's, of Llama-3.1-8B-Instruct on SQuARe rows. \
AdvBench: prompts refused, %, by OpenFedLLM's strings as the paper counts them; refused: by strings that do not stand in the prompt; judged safe: responses to them that the judge calls safe (evaluation.judge_guard), %. HHH: mean of the four subsets, %, by the sum of log-likelihoods, and by their mean a token. MT-Bench: first turn, 1 to 10. Over-refusal: harmless \
XSTest prompts refused, %. Perplexity: of held-out benign responses; reference perplexity: of MT-Bench's reference answers, where there is no judge. Rows: of all rows of the clients that trained, over all rounds. The paper's model without \
federated learning is what its federations start from; it stands beside our start. Constitutional AI: answers kept are those that the guard was sure of (or prepared as such), revised those whose revision survived, discarded what did not, or differed in nothing from its answer; \
what it took is generation and training; operations by formula. –: not measured, or not in the paper.";

/// All tables, with how to read them.
pub fn markdown(title: &str, cells: &[CellResult]) -> String {
    let configurations = configurations(cells);
    format!(
        "# {title}\n\n{}{}\n{}\n{}{}{}{}{}{}{READING}\n",
        matrix::tables(&configurations),
        paper_tables(cells, &configurations),
        rest_table(cells, &configurations),
        guard::table(cells),
        cai::table(&configurations),
        light::table(&configurations),
        pairs::table(&configurations),
        different_starts(cells),
        warned(&configurations)
    )
}

/// Strategies side by side in a table: the paper's two.
const STRATEGIES_A_TABLE: usize = 2;

/// A line a defence, and for each strategy the paper's measures: ours, and the paper's in brackets.
fn paper_tables(cells: &[CellResult], configurations: &[Configuration<'_>]) -> String {
    let mut strategies: Vec<&str> = configurations.iter().map(|of| of.strategy).collect();
    strategies.dedup();
    let tables = strategies.chunks(STRATEGIES_A_TABLE);
    tables.map(|strategies| paper_table(cells, configurations, strategies)).collect::<Vec<_>>().join("\n")
}

fn paper_table(cells: &[CellResult], configurations: &[Configuration<'_>], strategies: &[&str]) -> String {
    let of_paper = |strategy| measures_of(GridTable::Paper).map(move |(measure, _)| (strategy, measure));
    let columns: Vec<_> = strategies.iter().flat_map(|&strategy| of_paper(strategy)).collect();
    let mut text = "| defence |".to_owned();
    for (strategy, measure) in &columns {
        let _ = write!(text, " {strategy} {} |", measure.name);
    }
    let _ = writeln!(text, "\n|---|{}", "---:|".repeat(columns.len()));
    let mut line = |name: &str, cell: &dyn Fn(&str, &Measure) -> String| {
        let _ = write!(text, "| {name} |");
        for &(strategy, measure) in &columns {
            let _ = write!(text, " {} |", cell(strategy, measure));
        }
        text.push('\n');
    };
    if has_base(cells) {
        line("base, no FL", &|_, measure| spread(base(cells, measure)));
    }
    line("start, no FL", &|_, measure| beside(start(cells, measure), paper::base(measure)));
    let chance = |measure: &Measure| {
        Spread::of(first_of_each_seed(cells, |cell| read_chance(measure, &cell.summary.start_eval)))
    };
    if columns.iter().any(|(_, measure)| chance(measure).is_some()) {
        line("chance", &|_, measure| spread(chance(measure)));
    }
    let of_strategies = configurations.iter().filter(|of| strategies.contains(&of.strategy));
    for defence in defences(of_strategies.map(|of| of.defence)) {
        line(defence, &|strategy, measure| {
            let found = configurations.iter().find(|of| (of.strategy, of.defence) == (strategy, defence));
            beside(found.and_then(|of| of.spread(measure)), paper::result(strategy, defence, measure))
        });
    }
    text
}

/// Each defence once, in the order of first appearance.
pub(super) fn defences<'a>(all: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found = Vec::new();
    for defence in all {
        if !found.contains(&defence) {
            found.push(defence);
        }
    }
    found
}

/// What the paper does not have: other measures, and what became of rows.
fn rest_table(cells: &[CellResult], configurations: &[Configuration<'_>]) -> String {
    // Where nobody asked for what stands in for another measure, an empty column would only raise a question.
    let is_shown = |measure: &Measure, stands_in: bool| !stands_in || start(cells, measure).is_some();
    let measures = measures_of(GridTable::Ours).filter(|(measure, place)| is_shown(measure, place.stands_in));
    let measures: Vec<_> = measures.map(|(measure, _)| measure).collect();
    let names = measures.iter().map(|measure| measure.name.to_owned());
    let names: Vec<_> = names.chain(RowShare::ALL.map(|share| format!("{}, %", share.name()))).collect();
    let mut text = format!("| strategy | defence | {} | seeds |\n|---|---|", names.join(" | "));
    let _ = writeln!(text, "{}---:|", "---:|".repeat(names.len()));
    let mut line = |strategy: &str, defence: &str, cells: Vec<String>, seeds: String| {
        let _ = writeln!(text, "| {strategy} | {defence} | {} | {seeds} |", cells.join(" | "));
    };
    let mut before = |name: &str, of: &dyn Fn(&Measure) -> Option<Spread>| {
        let mut found: Vec<_> = measures.iter().map(|&measure| spread(of(measure))).collect();
        found.resize(names.len(), "–".to_owned());
        line("–", name, found, String::new());
    };
    if has_base(cells) {
        before("base, no FL", &|measure| base(cells, measure));
    }
    before("start, no FL", &|measure| start(cells, measure));
    for of in configurations {
        let found = measures.iter().map(|&measure| of.spread(measure)).chain(RowShare::ALL.map(|share| of.rows(share)));
        line(of.strategy, of.defence, found.map(spread).collect(), of.cells.len().to_string());
    }
    text
}

/// Seeds whose cells cannot be compared, because other code made the starts of some of them.
fn different_starts(cells: &[CellResult]) -> String {
    let mut starts: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
    for cell in cells {
        starts.entry(cell.seed).or_default().insert(&cell.start_sha256);
    }
    let differ = starts.into_iter().filter(|(_, starts)| starts.len() > 1);
    differ.fold(String::new(), |mut text, (seed, _)| {
        let _ = writeln!(
            text,
            "Cells of seed {seed} started from different adapters, since the program has changed in between; remove the older ones and \
             run the same command again.\n"
        );
        text
    })
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

/// The adapter that runs begin with.
fn start(cells: &[CellResult], measure: &Measure) -> Option<Spread> {
    before(cells, measure, |cell| Some(&cell.summary.start_eval))
}

/// The base model.
fn base(cells: &[CellResult], measure: &Measure) -> Option<Spread> {
    before(cells, measure, |cell| cell.summary.base_eval.as_ref())
}

fn has_base(cells: &[CellResult]) -> bool {
    cells.iter().any(|cell| cell.summary.base_eval.is_some())
}

fn before<'a>(
    cells: &'a [CellResult],
    measure: &Measure,
    of: fn(&'a CellResult) -> Option<&'a Evaluation>,
) -> Option<Spread> {
    Spread::of(first_of_each_seed(cells, |cell| read(measure, of(cell)?)))
}

/// What cells of one seed have in common, once a seed.
pub(super) fn first_of_each_seed<'a, T>(
    cells: impl IntoIterator<Item = &'a CellResult>,
    of: impl Fn(&'a CellResult) -> Option<T>,
) -> impl Iterator<Item = T> {
    let mut seeds = BTreeSet::new();
    cells.into_iter().filter_map(move |cell| {
        let found = of(cell)?;
        seeds.insert(cell.seed).then_some(found)
    })
}

pub(super) fn spread(spread: Option<Spread>) -> String {
    match spread {
        None => "–".to_owned(),
        Some(Spread { mean, sd: Some(sd), .. }) => format!("{mean:.1} ± {sd:.1}"),
        Some(Spread { mean, sd: None, .. }) => format!("{mean:.1}"),
    }
}

/// Ours, and the paper's in brackets where it has one.
fn beside(ours: Option<Spread>, theirs: Option<f64>) -> String {
    let ours = spread(ours);
    theirs.map_or_else(|| ours.clone(), |theirs| format!("{ours} ({theirs:.1})"))
}
