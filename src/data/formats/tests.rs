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
    assert_eq!(rows("rows.ndjson", &lines, RowFormat::Auto), expected);
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
            "messages[0].role: found \"bot\", expected system (or developer), user (or human), assistant (or gpt, chatgpt, model); \
             rename or remove the turn",
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
            "label: found \"bad\", expected \"safe\" or \"unsafe\"; rename the key if it means something else",
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
        "rows.txt: found extension .txt, expected .json, .jsonl (or .ndjson) or .csv, each also with .gz"
    );
    assert_eq!(
        complaint("rows", "a", auto),
        "rows: found no extension, expected .json, .jsonl (or .ndjson) or .csv, each also with .gz"
    );
    assert_eq!(complaint("rows.json", "{}", auto), "rows.json: found an object, expected an array of objects");
    assert_eq!(
        complaint("rows.json", "{\"a\":1}\n{\"a\":2}", auto),
        "rows.json: not valid JSON: trailing characters at line 2 column 1; if each line is an object of its own, name \
         the file .jsonl"
    );
    assert_eq!(
        complaint("rows.csv", "prompt,response, prompt\na,b,c\n", auto),
        "rows.csv, line 1: header: found \"prompt\" twice, expected each column once; rename or remove one"
    );
    assert_eq!(
        complaint("rows.csv", "prompt,response\na,b\nc,\"d\ne,f\n", auto),
        "rows.csv, line 3: found a quote that is never closed, expected one at the end of its cell; close it, or write quotes \
         inside quotes twice"
    );
    let twice = "found the key \"content\" twice, expected each once; remove one";
    let row = r#"{"messages":[{"role":"user","content":"a","content":"b"}]}"#;
    assert_eq!(complaint("rows.jsonl", row, auto), format!("rows.jsonl, line 1: {twice}"));
    assert_eq!(complaint("rows.json", &format!("[\n{row}]"), auto), format!("rows.json, item 1: {twice}"));
    assert_eq!(
        complaint("rows.jsonl", "{\"prompt\":\"a\"\n", auto),
        "rows.jsonl, line 1: not valid JSON: EOF while parsing an object"
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

#[test]
fn numbers_are_handed_on_as_they_are_written() {
    let numbers =
        r#""id":123456789012345678901234567890,"big":18446744073709551615,"neg":-9223372036854775809,"f":0.10,"g":1e2"#;
    let nested = r#""meta":{"ids":[1, 2.50, 36893488147419103232],"note":"a  b"}"#;
    let line = format!(r#"{{"prompt":"A","response":"B",{numbers},{nested}}}"#);
    let compact = line.replace("[1, 2.50, ", "[1,2.50,");
    for (name, content) in [("a.jsonl", line.clone()), ("a.json", format!("[\n  {}\n]", line.replace(":{", ":\n{\n")))]
    {
        let (_dir, path) = file(name, &content);
        let passed = || load_rows_with_records(&path, RowFormat::Auto).unwrap().remove(0).passed();
        assert_eq!(passed().to_string(), compact);
        let mut changed = passed();
        changed.set("id", 3.into());
        changed.set("more", "x".into());
        let expected = compact.replace("123456789012345678901234567890", "3").replace("\"}}", "\"},\"more\":\"x\"}");
        assert_eq!(changed.to_string(), expected);
    }
}

#[test]
fn a_response_that_is_not_to_be_trained_on_makes_no_row() {
    let line = |flag: &str| {
        format!(r#"{{"conversations":[{{"from":"human","value":"a"}},{{"from":"gpt","value":"b"{flag}}}]}}"#)
    };
    let content = [line(""), line(r#","weight":0"#), line(r#","train":false"#), line(r#","weight":1"#)].join("\n");
    let (_dir, path) = file("rows.jsonl", &content);
    let places: Vec<_> =
        load_placed_rows(&path, RowFormat::Auto).unwrap().into_iter().map(|(place, _)| place.to_string()).collect();
    assert_eq!(places, ["line 1", "line 4"]);
    // All are prompts, whatever is to be trained on.
    assert_eq!(load_prompts(&path).unwrap().len(), 4);
    assert_eq!(
        complaint("rows.jsonl", &line(r#","weight":0"#), RowFormat::Auto),
        "rows.jsonl: found no row with a response to train on, expected at least one; 1 rows have none, or say that it is not \
         to be trained on"
    );
}

#[test]
fn a_row_may_say_as_a_whole_that_it_is_not_to_be_trained_on() {
    let line = |flag: &str| format!(r#"{{"prompt":"a","response":"b"{flag}}}"#);
    let flags = [
        "",
        r#","weight":0"#,
        r#","train":false"#,
        r#","weight":1"#,
        r#","weight":0.5"#,
        r#","train":"full""#,
        r#","loss":0"#,
        r#","weight":0.0"#,
        r#","weight":null"#,
        r#","train":0"#,
    ];
    let (_dir, path) = file("rows.jsonl", &flags.map(line).join("\n"));
    let places: Vec<_> =
        load_placed_rows(&path, RowFormat::Auto).unwrap().into_iter().map(|(place, _)| place.to_string()).collect();
    assert_eq!(places, ["line 1", "line 4", "line 5", "line 6", "line 7", "line 9"]);
    // The cells of a table are texts.
    let cells =
        "prompt,response,weight,train\na,b,,\na,b,0,\na,b,0.0,\na,b,1,True\na,b,1,False\na,b,,FALSE\na,b,0.5,full\n";
    let (_dir, path) = file("rows.csv", cells);
    let places: Vec<_> =
        load_placed_rows(&path, RowFormat::Auto).unwrap().into_iter().map(|(place, _)| place.to_string()).collect();
    assert_eq!(places, ["line 2", "line 5", "line 8"]);
}

#[test]
fn what_is_not_heeded_is_known() {
    let unheeded = |record: serde_json::Value| match super::rows::chat_row(
        record.as_object().unwrap(),
        RowFormat::Auto,
        super::rows::Wanted::Row,
    ) {
        Ok(super::rows::Reading::Row(_, unheeded)) => {
            [unheeded.asks_for_others, unheeded.has_names, unheeded.is_weighted]
        }
        other => panic!("{record}: {other:?}"),
    };
    let turns = |more: serde_json::Value| {
        let mut first = serde_json::json!({"role": "user", "content": "a"});
        first.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::json!({"messages": [first, {"role": "assistant", "content": "b"}]})
    };
    assert_eq!(unheeded(turns(serde_json::json!({"name": ""}))), [false; 3]);
    assert_eq!(unheeded(turns(serde_json::json!({"name": "Ada"}))), [false, true, false]);
    assert_eq!(unheeded(turns(serde_json::json!({"weight": 1}))), [true, false, false]);
    assert_eq!(unheeded(serde_json::json!({"prompt": "a", "response": "b", "weight": 0.5})), [false, false, true]);
    for (weight, is_weighted) in [("0.5", true), ("1.0", false), ("heavy", false)] {
        let record = serde_json::json!({"prompt": "a", "response": "b", "weight": weight});
        assert_eq!(unheeded(record), [false, false, is_weighted], "{weight}");
    }
}

#[test]
fn turns_inside_of_a_text_are_no_prompt() {
    // As a table of cells has them, written by JSON or by Python.
    for turns in [
        r#"[{""role"": ""user"", ""content"": ""a""}]"#,
        "[{'content': 'a', 'role': 'user'}]",
        "[{'content': 'a {b} c', 'role': 'user'} {'content': 'd', 'role': 'assistant'}]",
        r#" [ { ""from"" : ""human"", ""value"": ""a"" } ] "#,
    ] {
        let complaint = complaint("rows.csv", &format!("prompt,response\n\"{turns}\",b\n"), RowFormat::Auto);
        assert_eq!(
            complaint,
            "rows.csv, line 2: prompt: found turns inside of a text, expected an array of turns; save the rows as .jsonl with the \
             arrays themselves"
        );
    }
    // Other lists may well be asked about.
    for asked in [
        r#"[{"name": 3}] is what?"#,
        r#"[{"role": "admin", "content": "x"}] is what?"#,
        r#"[{"role": "admin"}, {"role": "user", "content": "x"}]"#,
        r#"[{"value": 3}, {"value": 4}]"#,
        r#"[{"role": "content"}]"#,
        r#"[{"role": "user", "content": "x"}"#,
    ] {
        let line = serde_json::json!({"prompt": asked, "response": "b"}).to_string();
        assert_eq!(turns(&rows("rows.jsonl", &line, RowFormat::Auto)[0])[0].1, asked);
    }
}

#[test]
fn what_cannot_be_rendered_is_refused() {
    let tools = r#"{"prompt":"a","response":"b","tools":[{"type":"function"}]}"#;
    assert_eq!(
        complaint("rows.jsonl", tools, RowFormat::Auto),
        "rows.jsonl, line 1: tools: found an array of 1, expected none: tools cannot be rendered; remove the key or the row"
    );
    let call = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":null,"tool_calls":[{}]}]}"#;
    assert_eq!(
        complaint("rows.jsonl", call, RowFormat::Auto),
        "rows.jsonl, line 1: messages[1].tool_calls: found an array of 1, expected none: tool calls cannot be rendered; remove the \
         key or the row"
    );
    assert_eq!(
        turns(&rows("rows.jsonl", &tools.replace(r#"[{"type":"function"}]"#, "[]"), RowFormat::Auto)[0]).len(),
        2
    );
}

#[test]
fn keys_that_are_null_are_no_keys() {
    for (line, expected) in [
        (r#"{"instruction":"a","input":null,"output":"b","prompt":null,"history":null,"system":null}"#, "a"),
        (r#"{"instruction":null,"input":"a","output":"b"}"#, "a"),
        (r#"{"instruction":"","input":"a","output":"b"}"#, "a"),
        (r#"{"instruction":null,"prompt":"a","response":"b"}"#, "a"),
        (r#"{"messages":null,"instruction":"a","output":"b"}"#, "a"),
        (r#"{"instruction":"a","input":"x","output":"b"}"#, "a\nx"),
    ] {
        assert_eq!(
            turns(&rows("rows.jsonl", line, RowFormat::Auto)[0]),
            [("user", expected), ("assistant", "b")],
            "{line}"
        );
    }
}

#[test]
fn a_system_turn_leads_every_form() {
    let conversation = r#"[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]"#;
    let led = r#"[{"role":"developer","content":"S"},{"role":"user","content":"a"}]"#;
    for line in [
        r#"{"system":"S","chosen":"\n\nHuman: a\n\nAssistant: b","rejected":"x"}"#.to_owned(),
        format!(r#"{{"system":"S","chosen":{conversation},"rejected":{conversation}}}"#),
        format!(r#"{{"system_prompt":"S","messages":{conversation}}}"#),
        r#"{"system_prompt":"S","question":"a","response":"b"}"#.to_owned(),
        format!(r#"{{"system":"S ","prompt":{led},"completion":"b"}}"#),
        // A completion that repeats the prompt is the whole conversation.
        format!(r#"{{"prompt":{led},"completion":{conversation}}}"#),
    ] {
        let found = &rows("rows.jsonl", &line, RowFormat::Auto)[0];
        assert_eq!(turns(found), [("system", "S"), ("user", "a"), ("assistant", "b")], "{line}");
    }
}
