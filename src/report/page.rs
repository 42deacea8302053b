//! `report.html`: a run on one page, without anything from outside of it.

use fedward_actors::records::RoundRecord;
use minijinja::{Environment, Error, Value, context, value::Serde};

use super::Summary;

/// The page of one run. Names ending in `.html` are escaped by the template engine.
///
/// # Errors
///
/// The template engine's, which a test rules out.
pub fn page(question: &str, summary: &Summary, rounds: &[RoundRecord]) -> Result<String, Error> {
    let context = context! {
        question,
        summary => Value::from(Serde(summary)),
        rounds => Value::from(Serde(rounds)),
    };
    Environment::new().render_named_str("page.html", include_str!("page.html"), context)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fedward_actors::ports::BenchmarkScore;

    use super::*;
    use crate::report::{RunStatus, Totals};

    #[test]
    fn a_page_holds_the_numbers_and_escapes_names() {
        let score = |rate| BenchmarkScore { n: 64, values: BTreeMap::from([("refusal_rate".to_owned(), rate)]) };
        let summary = Summary {
            scenario: "a <b> scenario".into(),
            variant: "guard".into(),
            status: RunStatus::Completed,
            start_eval: BTreeMap::from([("advbench".to_owned(), score(0.75))]),
            eval: BTreeMap::from([("advbench".to_owned(), score(0.5))]),
            totals: Totals { rounds: 2, seconds: 1.25, ..Totals::default() },
            adapter_sha256: String::new(),
            assumptions: vec!["greedy decoding".into()],
        };
        let page = page("what?", &summary, &[]).unwrap();
        assert!(page.contains("a &lt;b&gt; scenario · guard"), "{page}");
        for expected in ["<td>refusal_rate</td><td>64</td>", "<td>0.75</td>", "<td>0.5</td>", "greedy decoding"] {
            assert!(page.contains(expected), "{expected} is missing in {page}");
        }
    }
}
