use serde_json::json;

use super::*;

fn read(record: &Value) -> Result<Said, Problem> {
    said(record.as_object().unwrap())
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

fn say(text: &str) -> Value {
    json!({"role": "assistant", "content": text})
}

fn system(text: &str) -> Value {
    json!({"role": "system", "content": text})
}

/// Both sides, each turn as its role and its text.
fn sides(record: &Value) -> [Vec<(&'static str, String)>; 2] {
    match read(record) {
        Ok(Said::Revision(Revision::Pair(pair))) => {
            pair.sides().map(|row| row.messages.iter().map(|turn| (turn.role.as_str(), turn.content.clone())).collect())
        }
        other => panic!("{record}: {other:?}"),
    }
}

#[test]
fn every_form_says_the_same_pair() {
    let expected = PreferencePair::single_turn("Hi", "Hello!", "What?");
    let hi = user("Hi");
    for record in [
        json!({"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}),
        json!({"prompt": [hi], "chosen": [say("Hello!")], "rejected": [say("What?")]}),
        json!({"prompt": "Hi", "chosen": [hi, say("Hello!")], "rejected": [hi, say("What?")]}),
        json!({"prompt": [hi], "chosen": [hi, say("Hello!")], "rejected": "What?"}),
        // Intel's, and LLaMA-Factory's two.
        json!({"system": "", "question": "Hi", "chosen": "Hello!", "rejected": "What?"}),
        json!({"instruction": "Hi", "input": "", "chosen": "Hello!", "rejected": "What?"}),
        json!({
            "conversations": [{"from": "human", "value": "Hi"}], "chosen": {"from": "gpt", "value": "Hello!"},
            "rejected": {"from": "gpt", "value": "What?"}
        }),
        json!({"prompt": "Hi", "chosen": say("Hello!"), "rejected": say("What?"), "tools": []}),
        json!({"prompt": "Hi", "chosen": "Hello!", "rejected": "What?", "tools": "[]"}),
        json!({"prompt": "Hi", "chosen": "Hello!", "rejected": "What?", "tools": "null", "functions": " {} "}),
        // The implicit prompt of TRL.
        json!({"chosen": [hi, say("Hello!")], "rejected": [hi, say("What?")]}),
        json!({
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello!",
            "rejected": "\n\nHuman: Hi\n\nAssistant: What?",
        }),
        json!({
            "prompt": "Hi",
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello!",
            "rejected": "\n\nHuman: Hi\n\nAssistant: What?",
        }),
    ] {
        assert_eq!(read(&record), Ok(Said::Revision(Revision::Pair(expected.clone()))), "{record}");
    }
}

/// What the model says before its last response may differ; the prompt stays in front of turns that go on after it.
#[test]
fn sides_of_several_turns_keep_their_prompt() {
    let (first, second) = (user("Hi"), user("And?"));
    let [chosen, rejected] =
        [("Hello!", "Fine."), ("No.", "Late.")].map(|(one, two)| [say(one), second.clone(), say(two)]);
    let whole = |side: &[Value; 3]| [&[first.clone()][..], side].concat();
    let expected = ["Hello!", "No."].map(str::to_owned);
    let full = json!({"chosen": whole(&chosen), "rejected": whole(&rejected)});
    for record in [
        &full,
        &json!({"prompt": [first], "chosen": chosen, "rejected": rejected}),
        &json!({"prompt": "Hi", "chosen": chosen, "rejected": whole(&rejected)}),
        &json!({"prompt": [first], "chosen": whole(&chosen), "rejected": whole(&rejected)}),
    ] {
        let found = sides(record);
        assert_eq!(found, sides(&full), "{record}");
        assert_eq!(found.each_ref().map(|side| side[1].1.clone()), expected);
        assert!(found.iter().all(|side| side.len() == 4 && side[0] == ("user", "Hi".to_owned())), "{record}");
    }
}

#[test]
fn a_system_turn_leads_both_sides_wherever_it_stands() {
    let (kind, hi) = (system("Be kind"), user("Hi"));
    let [chosen, rejected] = [say("Hello!"), say("What?")];
    let prompt = json!([kind, hi]);
    let right = json!({"prompt": prompt, "chosen": [chosen], "rejected": [rejected]});
    assert!(sides(&right).iter().all(|side| side[0] == ("system", "Be kind".to_owned()) && side.len() == 3));
    let dialogue = |text: &str| format!("\n\nHuman: Hi\n\nAssistant: {text}");
    for record in [
        json!({"system": "Be kind", "prompt": "Hi", "chosen": [hi, chosen], "rejected": [hi, rejected]}),
        json!({"system": "Be kind", "chosen": [hi, chosen], "rejected": [hi, rejected]}),
        json!({"system_prompt": "Be kind", "chosen": dialogue("Hello!"), "rejected": dialogue("What?")}),
        json!({"prompt": prompt, "chosen": [hi, chosen], "rejected": [hi, rejected]}),
        json!({"prompt": prompt, "chosen": [kind, hi, chosen], "rejected": [kind, hi, rejected]}),
        json!({"system": "Be kind", "prompt": prompt, "chosen": "Hello!", "rejected": [hi, rejected]}),
    ] {
        assert_eq!(sides(&record), sides(&right), "{record}");
    }
    for record in [
        json!({"prompt": prompt, "chosen": [kind, hi, chosen], "rejected": [hi, rejected]}),
        json!({"chosen": [hi, chosen], "rejected": [kind, hi, rejected]}),
        json!({"prompt": prompt, "chosen": [system("Be rude"), hi, chosen], "rejected": [kind, hi, rejected]}),
    ] {
        assert_eq!(read(&record), Ok(Said::AsksDifferently), "{record}");
    }
}

#[test]
fn pairs_whose_sides_ask_different_things_are_left_out_in_every_form_and_counted() {
    let [chosen, rejected] = [say("Hello!"), say("What?")];
    let diverging = json!({
        "chosen": "\n\nHuman: A\n\nAssistant: a\n\nHuman: B\n\nAssistant: b",
        "rejected": "\n\nHuman: A\n\nAssistant: c\n\nHuman: C\n\nAssistant: d",
    });
    let asking = [
        json!({"prompt": "A", "chosen": [user("B"), chosen], "rejected": [user("C"), rejected]}),
        json!({"prompt": "A", "chosen": [user("B"), chosen], "rejected": null}),
        json!({"chosen": [user("B"), chosen], "rejected": [user("C"), rejected]}),
        json!({"prompt": "A", "chosen": [chosen, user("B"), chosen], "rejected": [rejected]}),
        diverging,
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pairs.jsonl");
    let mut lines = String::new();
    for record in &asking {
        assert_eq!(read(record), Ok(Said::AsksDifferently), "{record}");
        lines.push_str(&record.to_string());
        lines.push('\n');
    }
    std::fs::write(&path, &lines).unwrap();
    let problem = load_pairs(&path).unwrap_err().to_string();
    assert!(
        problem.ends_with("5 pairs whose sides ask different things are left out (the first on line 1)"),
        "{problem}"
    );
    // The others are read.
    let pair = json!({"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"});
    std::fs::write(&path, lines + &pair.to_string()).unwrap();
    let [(place, read)] = &load_pairs(&path).unwrap()[..] else { panic!("expected one pair") };
    assert_eq!((place.to_string().as_str(), read), ("line 6", &PreferencePair::single_turn("Hi", "Hello!", "What?")));
}

#[test]
fn a_response_that_is_not_to_be_trained_on_makes_no_pair() {
    let muted = json!({"role": "assistant", "content": "No.", "weight": 0});
    let record = json!({"prompt": "Hi", "chosen": "Hello!", "rejected": [muted]});
    assert_eq!(read(&record), Ok(Said::Muted));
}

#[test]
fn a_pair_may_say_as_a_whole_that_it_is_not_to_be_trained_on() {
    let pair = |flag: &str, value: Value| json!({"prompt": "Hi", "chosen": "Hello!", "rejected": "What?", flag: value});
    for (flag, value) in
        [("weight", json!(0)), ("train", json!(false)), ("weight", json!("0.0")), ("train", json!("False"))]
    {
        assert_eq!(read(&pair(flag, value.clone())), Ok(Said::Muted), "{flag} {value}");
    }
    assert_eq!(read(&json!({"prompt": "Hi", "chosen": "Hello!", "rejected": null, "weight": 0})), Ok(Said::Muted));
    for (flag, value) in [("weight", json!("1.0")), ("weight", json!(0.5)), ("train", json!("TRUE"))] {
        assert!(matches!(read(&pair(flag, value)), Ok(Said::Revision(_))), "{flag}");
    }
    // They are counted.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pairs.csv");
    std::fs::write(&path, "prompt,chosen,rejected,weight\na,b,c,0\na,b,c,0.0\n").unwrap();
    let problem = load_pairs(&path).unwrap_err().to_string();
    assert!(
        problem.contains("; 2 pairs are left out: they, or one of their responses, are not to be trained on"),
        "{problem}"
    );
}

/// Keys beside whole conversations may hold their last question, all of their turns, or a note.
#[test]
fn whole_sides_are_compared_with_prompt_alone() {
    let (chosen, rejected) =
        ([user("Q1"), say("a1"), user("Q2"), say("a2")], [user("Q1"), say("a1"), user("Q2"), say("b2")]);
    let expected = sides(&json!({"chosen": chosen, "rejected": rejected}));
    assert_eq!(expected[0].len(), 4);
    let dialogue = |last: &str| format!("\n\nHuman: Q1\n\nAssistant: a1\n\nHuman: Q2\n\nAssistant: {last}");
    for (key, beside) in [
        ("question", json!("Q2")),
        ("question", json!("")),
        ("question", json!("Q1")),
        ("instruction", json!("Be kind to whoever asks.")),
        ("conversations", json!(chosen)),
        ("conversations", json!([user("Q1")])),
        ("conversations", json!(chosen[..3])),
        ("conversations", json!([{"from": "human", "value": "Q2"}])),
    ] {
        let record = json!({key: beside, "chosen": chosen, "rejected": rejected});
        assert_eq!(sides(&record), expected, "{record}");
        let record = json!({key: beside, "chosen": dialogue("a2"), "rejected": dialogue("b2")});
        assert_eq!(sides(&record), expected, "{record}");
    }
    let asked = json!({"prompt": "Q2", "chosen": chosen, "rejected": rejected});
    assert_eq!(read(&asked), Ok(Said::AsksDifferently));
    let answer = json!({"question": "Q2", "chosen": chosen, "rejected": null});
    let Ok(Said::Revision(Revision::Answer(answer))) = read(&answer) else { panic!("{answer}") };
    assert_eq!(answer.messages.len(), 4);
}

#[test]
fn conversations_ask_with_the_keys_that_their_turns_have() {
    let expected = sides(&json!({"prompt": [user("Hi")], "chosen": "Hello!", "rejected": "What?"}));
    let record = json!({"conversations": [user("Hi")], "chosen": say("Hello!"), "rejected": say("What?")});
    assert_eq!(sides(&record), expected);
    // Turns of user that go on after what is asked are not whole.
    let side = |last: &str| json!([say("Hello!"), user("And?"), say(last)]);
    let record = json!({"conversations": [user("Hi")], "chosen": side("Fine."), "rejected": side("No.")});
    assert_eq!(sides(&record), sides(&json!({"prompt": "Hi", "chosen": side("Fine."), "rejected": side("No.")})));
}

#[test]
fn earlier_turns_stand_before_an_instruction() {
    let record = json!({
        "system": "S", "history": [["Q1", "a1"]], "instruction": "Q2", "input": "", "chosen": "a2", "rejected": "b2",
    });
    let expected = json!({
        "chosen": [system("S"), user("Q1"), say("a1"), user("Q2"), say("a2")],
        "rejected": [system("S"), user("Q1"), say("a1"), user("Q2"), say("b2")],
    });
    assert_eq!(sides(&record), sides(&expected));
}

#[test]
fn complaints_name_the_key() {
    for (record, expected) in [
        (json!({"prompt": "Hi", "chosen": "Hello!"}), "missing key rejected"),
        (json!({"prompt": "Hi", "chosen": "", "rejected": "x"}), "chosen: found an empty text"),
        (json!({"answer": "Hi"}), "expected prompt, chosen and rejected"),
        (json!({"prompt": "Hi", "chosen": 3, "rejected": "x"}), "chosen: found the number 3"),
        (json!({"prompt": [], "chosen": "x", "rejected": "y"}), "prompt: expected a turn of user"),
        (json!({"chosen": "Hello", "rejected": "x"}), "chosen: expected a dialogue"),
        (
            json!({"prompt": "Hi", "chosen": "x", "rejected": "y", "tools": [{}]}),
            "tools: found an array of 1, expected none: tools cannot be rendered",
        ),
        (
            json!({"prompt": json!([user("Hi")]).to_string(), "chosen": "x", "rejected": "y"}),
            "prompt: found turns inside of a text, expected an array of turns",
        ),
        (
            json!({"chosen": [say("Hello")], "rejected": [say("x")]}),
            "chosen: found an array of 1, expected turns of user",
        ),
    ] {
        let problem = read(&record).unwrap_err();
        assert!(problem.contains(expected), "{problem}");
    }
}

#[test]
fn a_dialogue_without_a_response_is_left_out() {
    let open = json!({"chosen": "\n\nHuman: Hi\n\nAssistant: ", "rejected": "\n\nHuman: Hi\n\nAssistant: What?"});
    assert_eq!(read(&open), Ok(Said::Open));
}

#[test]
fn an_answer_that_nothing_is_preferred_to_says_so() {
    let expected = Ok(Said::Revision(Revision::Answer(ChatRow::single_turn("Hi", "Hello!"))));
    for record in [
        json!({"prompt": "Hi", "chosen": "Hello!", "rejected": null}),
        json!({"chosen": [user("Hi"), say("Hello!")], "rejected": null}),
    ] {
        assert_eq!(read(&record), expected, "{record}");
    }
}

#[test]
fn answers_are_no_pairs_but_revisions_hold_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pairs.jsonl");
    let answer = json!({"prompt": "Hi", "chosen": "Hello!", "rejected": null}).to_string();
    std::fs::write(&path, &answer).unwrap();
    let problem = load_pairs(&path).unwrap_err().to_string();
    assert!(problem.contains("no preference pairs"), "{problem}");
    let pair = json!({"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}).to_string();
    std::fs::write(&path, format!("{answer}\n{pair}\n")).unwrap();
    let pairs = vec![PreferencePair::single_turn("Hi", "Hello!", "What?")];
    let read: Vec<_> = load_pairs(&path).unwrap().into_iter().map(|(_, pair)| pair).collect();
    assert_eq!(read, pairs);
    let good_answers = vec![ChatRow::single_turn("Hi", "Hello!")];
    let revisions: Revisions = load_revisions(&path).unwrap().into_iter().collect();
    assert_eq!(revisions, Revisions { pairs, good_answers });
}

#[test]
fn sides_that_differ_by_white_space_are_equal() {
    assert!(PreferencePair::single_turn("Hi", "Hello! ", "Hello!").sides_are_equal());
    assert!(!PreferencePair::single_turn("Hi", "Hello!", "Hallo!").sides_are_equal());
}
