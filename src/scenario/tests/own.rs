use super::*;
use crate::eval::OwnKind;

/// A scenario beside prompts, and what comes of it.
fn with_files(text: &str) -> (tempfile::TempDir, PathBuf) {
    let (folder, path) = file(&format!("{HEAD}{text}"));
    std::fs::write(folder.path().join("prompts.txt"), "Bake bread.\n").unwrap();
    std::fs::write(folder.path().join("no.txt"), "Not today\nno way\n").unwrap();
    (folder, path)
}

#[test]
fn benchmarks_of_one_s_own_are_measured_beside_the_others() {
    let text = r#"
[evaluation]
benches = ["utility", "harmbench"]
[[evaluation.own]]
name = "mine"
file = "prompts.txt"
refusal_strings = "no.txt"
[[evaluation.own]]
name = "sums"
kind = "exact"
file = "prompts.txt"
max_new_tokens = 99
"#;
    let (_folder, path) = with_files(text);
    let evaluation = load(&path, &[]).unwrap().scenarios.remove(0).evaluation;
    let [mine, sums] = &evaluation.own[..] else { panic!("{:?}", evaluation.own) };
    assert_eq!(mine.refusal_strings, Some(vec!["Not today".to_owned(), "no way".to_owned()]));
    assert_eq!((mine.kind, sums.kind, sums.max_new_tokens), (OwnKind::Refusal, OwnKind::Exact, Some(99)));
    let names = |evaluation: &EvaluationSection| evaluation.interim_benches.iter().cloned().collect::<Vec<_>>();
    assert_eq!(names(&evaluation), ["harmbench", "mine", "sums", "utility"]);
    let (_folder, path) = with_files(&text.replace("[evaluation]", "[evaluation]\ninterim_benches = [\"mine\"]"));
    assert_eq!(names(&load(&path, &[]).unwrap().scenarios[0].evaluation), ["mine"]);
    // What says nothing of them resolves as before there were any.
    let (_folder, path) = with_files("");
    let recorded = serde_json::to_value(&load(&path, &[]).unwrap().scenarios[0]).unwrap();
    assert!(recorded["evaluation"].get("own").is_none());
}

#[test]
fn what_is_wrong_with_them_is_named() {
    let own = |lines: &str| format!("[[evaluation.own]]\n{lines}\n");
    for (text, problem) in [
        (
            own("name = \"advbench\"\nfile = \"prompts.txt\""),
            "evaluation.own[0].name: found \"advbench\", which is a benchmark",
        ),
        (own("name = \"A b\"\nfile = \"prompts.txt\""), "allowed: lower-case letters"),
        (own("name = \"a\"\nfile = \"none.txt\""), "evaluation.own[0].file: found no file"),
        (own("name = \"a\"\nfile = \"prompts.txt\"\nrefusal_strings = []"), "refusal_strings: found none"),
        (own("name = \"a\"\nfile = \"prompts.txt\"\nrefusal_strings = \"none.txt\""), "refusal_strings: "),
        (own("name = \"a\"\nkind = \"exact\"\nfile = \"prompts.txt\"\nrefusal_strings = [\"x\"]"), "has no refusals"),
        (own("name = \"a\"\nkind = \"choice\"\nfile = \"prompts.txt\"\nmax_new_tokens = 3"), "has no responses"),
        (own("name = \"a\"\nkind = \"essay\"\nfile = \"prompts.txt\""), "unknown variant `essay`"),
        (
            [own("name = \"a\"\nfile = \"prompts.txt\""), own("name = \"a\"\nfile = \"prompts.txt\"")].concat(),
            "\"a\" twice",
        ),
        (
            "evaluation.interim_benches = [\"mine\"]\n".to_owned(),
            "found \"mine\"; allowed: those of evaluation.benches",
        ),
    ] {
        let (_folder, path) = with_files(&text);
        let found = load(&path, &[]).unwrap_err().to_string();
        assert!(found.contains(problem), "{text}: {found}");
    }
}
