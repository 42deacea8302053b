//! The number in a judge's answer.

/// The rating in a judge's answer, as `FastChat` reads it: the first `[[number]]`, else the first `[number]`. Numbers
/// outside 1 to 10, the scale that judges are told, count as none.
pub fn rating(answer: &str) -> Option<f64> {
    let found = bracketed(answer, "[[", "]]").or_else(|| bracketed(answer, "[", "]"))?;
    (1.0..=10.0).contains(&found).then_some(found)
}

/// The first `digits[.digits]` between two markers with nothing else between them. Linear in the text, which is a server's:
/// no byte is looked at more than a few times, whatever brackets there are.
fn bracketed(text: &str, open: &str, close: &str) -> Option<f64> {
    let bytes = text.as_bytes();
    // Markers may overlap, as in `[[[`; digits hold none, so what follows two of them does not overlap.
    let starts = (0..bytes.len()).filter(|&start| bytes[start..].starts_with(open.as_bytes()));
    starts.map(|start| start + open.len()).find_map(|start| {
        let whole = digits(bytes, start);
        let end = if bytes.get(whole) == Some(&b'.') { digits(bytes, whole + 1) } else { whole };
        let is_number = whole > start && bytes[end..].starts_with(close.as_bytes());
        // Both ends are beside ASCII.
        is_number.then(|| text[start..end].trim_end_matches('.').parse().ok()).flatten()
    })
}

/// Where the digits from `start` on end.
fn digits(bytes: &[u8], start: usize) -> usize {
    start + bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `re.search(r"\[\[(\d+\.?\d*)\]\]", text)`, then `re.search(r"\[(\d+\.?\d*)\]", text)`, find.
    #[test]
    fn ratings_are_read_as_fastchat_reads_them() {
        for (answer, expected) in [
            ("Good. Rating: [[7]]", Some(7.0)),
            ("Rating: [[8.5]]. Or [[3]]?", Some(8.5)),
            ("Rating: [[9.]]", Some(9.0)),
            ("Rating: [6]", Some(6.0)),
            ("see [1], rating [[4]]", Some(4.0)),
            ("[[rating]] is [[5]]", Some(5.0)),
            ("[[[2]]]", Some(2.0)),
            ("see [3], rating [[[2]]]", Some(2.0)),
            ("é[[4.5]]é", Some(4.5)),
            ("[[1.2.3]] [5", None),
            ("[[12[[7]]", Some(7.0)),
            ("Rating: [[ 7 ]]", None),
            ("Rating: [[7/10]]", None),
            ("Rating: 7", None),
            ("Rating: [[.5]]", None),
            ("Rating: [[11]]", None),
            ("Rating: [[0]]", None),
            ("[[", None),
            ("[[7", None),
            ("[[7.", None),
            ("", None),
        ] {
            assert_eq!(rating(answer), expected, "{answer}");
        }
    }

    /// Work that grows with the square of the length would take minutes on each of these.
    #[test]
    fn megabytes_of_brackets_and_digits_are_read_through_once() {
        const LENGTH: usize = 6 << 20;
        for unit in ["[", "[[1", "[[1.1", "1", "[[1]", "[é"] {
            let mut answer = unit.repeat(LENGTH / unit.len());
            assert_eq!(rating(&answer), if unit == "[[1]" { Some(1.0) } else { None }, "{unit}");
            answer.push_str(" [[7]]");
            assert_eq!(rating(&answer), Some(7.0), "{unit}");
        }
        assert_eq!(rating(&format!("[[{}]]", "9".repeat(LENGTH))), None);
    }
}
