use std::{fs, io::Write, path::PathBuf};

use fedward_actors::protocol::{Role, RowLabel};
use flate2::{Compression, write::GzEncoder};
use tempfile::TempDir;

use super::*;

fn file(name: &str, content: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, content).unwrap();
    (dir, path)
}

fn rows(name: &str, content: &str, format: RowFormat) -> Vec<ChatRow> {
    let (_dir, path) = file(name, content);
    load_rows(&path, format).unwrap()
}

fn prompts(name: &str, content: &str) -> Vec<Vec<(Role, String)>> {
    let (_dir, path) = file(name, content);
    let prompts = load_prompts(&path).unwrap();
    prompts
        .into_iter()
        .map(|record| record.meaning.into_iter().map(|turn| (turn.role, turn.content)).collect())
        .collect()
}

/// The message without the folder.
fn complaint(name: &str, content: &str, format: RowFormat) -> String {
    let (dir, path) = file(name, content);
    let message = load_rows(&path, format).unwrap_err().to_string();
    message.replace(&format!("{}/", dir.path().display()), "")
}

fn turns(row: &ChatRow) -> Vec<(&str, &str)> {
    row.messages.iter().map(|turn| (turn.role.as_str(), turn.content.as_str())).collect()
}

#[test]
fn every_format_is_told_by_its_keys() {
    let expected = [("user", "Name a fruit."), ("assistant", "A pear.")];
    for line in [
        r#"{"messages":[{"role":"user","content":"Name a fruit."},{"role":"assistant","content":"A pear."}]}"#,
        r#"{"conversations":[{"from":"human","value":"Name a fruit."},{"from":"gpt","value":"A pear."}]}"#,
        r#"{"instruction":"Name a fruit.","input":"","output":"A pear."}"#,
        r#"{"instruction":"Name a fruit.","response":"A pear."}"#,
        r#"{"prompt":"Name a fruit.","completion":"A pear."}"#,
        r#"{"prompt":[{"role":"user","content":"Name a fruit."}],"completion":[{"role":"assistant","content":"A pear."}]}"#,
        r#"{"goal":"Name a fruit.","target":"A pear."}"#,
        r#"{"chosen":"\n\nHuman: Name a fruit.\n\nAssistant: A pear.","rejected":"\n\nHuman: Name a fruit.\n\nAssistant: No."}"#,
    ] {
        let found = rows("rows.jsonl", line, RowFormat::Auto);
        assert_eq!(turns(&found[0]), expected, "{line}");
    }
}

#[test]
fn all_containers_give_the_same_rows() {
    let json = r#"[{"prompt":"a, \"b\"","response":"c\nd","topic":"t","label":"safe"}]"#;
    let expected = rows("rows.json", json, RowFormat::Auto);
    assert_eq!(turns(&expected[0]), [("user", "a, \"b\""), ("assistant", "c\nd")]);
    assert_eq!((expected[0].topic.as_deref(), expected[0].label), (Some("t"), Some(RowLabel::Safe)));
    let lines = format!("\u{feff}\n{}\n\n", &json[1..json.len() - 1]);
    assert_eq!(rows("rows.jsonl", &lines, RowFormat::Auto), expected);
    let csv = "prompt,response,topic,label\n\"a, \"\"b\"\"\",\"c\nd\",t,safe\n";
    assert_eq!(rows("rows.csv", csv, RowFormat::Auto), expected);

    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(csv.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let dir = tempfile::tempdir().unwrap();
    for name in ["rows.csv.gz", "rows.csv", "ROWS.CSV.GZ"] {
        let path = dir.path().join(name);
        fs::write(&path, &gzip).unwrap();
        assert_eq!(load_rows(&path, RowFormat::Auto).unwrap(), expected, "{name}");
    }
    fs::write(dir.path().join("plain.csv.gz"), csv).unwrap();
    assert_eq!(load_rows(&dir.path().join("plain.csv.gz"), RowFormat::Auto).unwrap(), expected);
}

#[test]
fn rows_that_we_write_are_rows_that_we_read() {
    let mut row = ChatRow::single_turn("Name a fruit.", "A pear.");
    row.topic = Some("food".to_owned());
    row.label = Some(RowLabel::Unsafe);
    row.messages.insert(0, ChatMessage::new(Role::System, "Be brief."));
    assert_eq!(rows("rows.jsonl", &serde_json::to_string(&row).unwrap(), RowFormat::Messages), [row]);
}

#[test]
fn alpaca_joins_input_and_takes_history() {
    let line = r#"{"system":"S","history":[["q","a"]],"instruction":"i","input":"x","output":"o","category":"c"}"#;
    let found = &rows("rows.jsonl", line, RowFormat::Alpaca)[0];
    assert_eq!(
        turns(found),
        [("system", "S"), ("user", "q"), ("assistant", "a"), ("user", "i\nx"), ("assistant", "o")]
    );
    assert_eq!(found.topic.as_deref(), Some("c"));
}

#[test]
fn dialogues_give_either_side_and_leave_out_empty_responses() {
    let line = |chosen: &str| format!(r#"{{"chosen":"{chosen}","rejected":"\n\nHuman: a\n\nAssistant: no"}}"#);
    let content = [
        line(r"\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nHuman: d\n\nsame turn\n\nAssistant: e"),
        line(r"\n\nHuman: a\n\nAssistant:"),
    ]
    .join("\n");
    let chosen = rows("hh.jsonl", &content, RowFormat::HhRlhf);
    assert_eq!(chosen.len(), 1);
    assert_eq!(
        turns(&chosen[0]),
        [("user", "a"), ("assistant", "b"), ("user", "c\n\nd\n\nsame turn"), ("assistant", "e")]
    );
    let rejected = rows("hh.jsonl", &content, RowFormat::HhRlhfRejected);
    assert_eq!(rejected.len(), 2);
    assert_eq!(turns(&rejected[0]), [("user", "a"), ("assistant", "no")]);
    assert_eq!(prompts("hh.jsonl", &content)[1], [(Role::User, "a".to_owned())]);
}

#[test]
fn prompts_come_from_every_format() {
    let user = |text: &str| vec![(Role::User, text.to_owned())];
    let content = r#"{"prompt":"a","label":3}
{"instruction":"b"}
{"messages":[{"role":"user","content":"c"},{"role":"assistant","content":""}]}
{"conversations":[{"from":"human","value":"d"}]}
{"prompt":[{"role":"user","content":"e"}],"response":""}"#;
    assert_eq!(prompts("p.jsonl", content), ["a", "b", "c", "d", "e"].map(user));
    assert_eq!(prompts("p.csv", "goal,target\nx,y\n"), [user("x")]);
    assert_eq!(prompts("p.csv", "goal\n\"x, y\"\n"), [user("x, y")]);
}

#[test]
fn complaints_name_file_place_key_found_and_allowed() {
    let good = r#"{"prompt":"a","response":"b"}"#;
    let cases = [
        (
            RowFormat::Auto,
            r#"{"text":"a","id":1}"#,
            "no known format has these keys: text, id; expected messages, conversations, instruction and output, \
             prompt and response, or chosen and rejected",
        ),
        (
            RowFormat::Messages,
            r#"{"messages":[{"role":"bot","content":"a"}]}"#,
            "messages[0].role: found \"bot\", allowed: system, user (or human), assistant (or gpt); rename or remove the turn",
        ),
        (
            RowFormat::Messages,
            r#"{"messages":[{"role":"user","content":"a"}]}"#,
            "messages: found user at the end, expected assistant; remove turns after the response",
        ),
        (
            RowFormat::Messages,
            r#"{"messages":[{"role":"assistant","content":"a"}]}"#,
            "messages: found no turn of user, expected one before the response; correct or remove the row",
        ),
        (
            RowFormat::Messages,
            r#"{"messages":[{"role":"user","text":"a"}]}"#,
            "messages[0]: missing key content; found: role, text",
        ),
        (
            RowFormat::ShareGpt,
            r#"{"conversations":[{"from":"human","value":7}]}"#,
            "conversations[0].value: found the number 7, expected a text; correct or remove the row",
        ),
        (
            RowFormat::Alpaca,
            r#"{"instruction":"a","input":"b"}"#,
            "missing key output (or response); found: instruction, input; add it or name another format",
        ),
        (
            RowFormat::Alpaca,
            r#"{"instruction":"a","output":" "}"#,
            "output: found an empty text, expected a text; correct or remove the row",
        ),
        (
            RowFormat::PromptResponse,
            r#"{"prompt":"a"}"#,
            "missing key response (or completion, answer, output, target); found: prompt; add it or name another format",
        ),
        (
            RowFormat::HhRlhf,
            r#"{"chosen":"Assistant: a"}"#,
            "chosen: expected a dialogue \"\\n\\nHuman: … \\n\\nAssistant: …\" that Human opens and Assistant closes; \
             correct or remove the row",
        ),
        (
            RowFormat::Auto,
            r#"{"prompt":"a","response":"b","label":"bad"}"#,
            "label: found \"bad\", allowed: \"safe\", \"unsafe\"; rename the key if it means something else",
        ),
        (RowFormat::Auto, r#"["a"]"#, "found an array of 1, expected an object"),
        (RowFormat::Auto, r#"{"prompt" "a"}"#, "not valid JSON: expected `:` at column 11"),
    ];
    for (format, bad, problem) in cases {
        assert_eq!(complaint("rows.jsonl", bad, format), format!("rows.jsonl, line 1: {problem}"), "{bad}");
        let later = complaint("rows.jsonl", &format!("{good}\n\n{bad}"), RowFormat::Auto);
        assert!(later.starts_with("rows.jsonl, line 3: "), "{later}");
    }
}

#[test]
fn complaints_about_containers() {
    let auto = RowFormat::Auto;
    assert_eq!(
        complaint("rows.json", r#"[{"prompt":"a","response":"b"},{"prompt":"a"}]"#, auto),
        "rows.json, item 2: missing key response (or completion, answer, output, target); found: prompt; add it or name \
         another format"
    );
    assert_eq!(
        complaint("rows.csv", "prompt,response\na,\"b\nc\"\nd,\n", auto),
        "rows.csv, line 4: response: found an empty text, expected a text; correct or remove the row"
    );
    assert_eq!(
        complaint("rows.csv", "prompt,response\na,b,c\n", auto),
        "rows.csv, line 2: found 3 cells, expected 2 as in the header; quote cells that hold commas or line breaks"
    );
    assert_eq!(
        complaint("rows.txt", "a", auto),
        "rows.txt: found extension .txt, allowed: .json, .jsonl, .csv, each also with .gz"
    );
    assert_eq!(
        complaint("rows", "a", auto),
        "rows: found no extension, allowed: .json, .jsonl, .csv, each also with .gz"
    );
    assert_eq!(complaint("rows.json", "{}", auto), "rows.json: found an object, expected an array of objects");
    assert_eq!(
        complaint("rows.json", "{\"a\":1}\n{\"a\":2}", auto),
        "rows.json: not valid JSON: trailing characters at line 2 column 1; if each line is an object of its own, name \
         the file .jsonl"
    );
    assert_eq!(complaint("rows.jsonl", "\n", auto), "rows.jsonl: found no rows, expected at least one");
    let (dir, path) = file("rows.csv", "");
    fs::write(&path, b"prompt,response\na,\xff\n").unwrap();
    assert!(load_rows(&path, auto).unwrap_err().to_string().ends_with("rows.csv, line 2: not UTF-8; convert the file"));
    let missing = load_rows(&dir.path().join("none.json"), auto).unwrap_err().to_string();
    assert!(missing.ends_with("none.json: No such file or directory (os error 2)"), "{missing}");
}

#[test]
fn names_read_back() {
    for format in RowFormat::ALL {
        assert_eq!(format.name().parse(), Ok(format));
        assert_eq!(serde_json::to_value(format).unwrap(), format.name());
    }
    assert_eq!(
        "csv".parse::<RowFormat>().unwrap_err(),
        "unknown row format \"csv\"; allowed: auto, messages, alpaca, sharegpt, prompt_response, hh_rlhf, hh_rlhf_rejected"
    );
}
