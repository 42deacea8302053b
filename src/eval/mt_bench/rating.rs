//! The number in a judge's answer.

/// The rating in a judge's answer, as `FastChat` reads it: the first `[[number]]`, else the first `[number]`. Numbers
/// outside 1 to 10, the scale that judges are told, count as none.
pub fn rating(answer: &str) -> Option<f64> {
    let found = bracketed(answer, "[[", "]]").or_else(|| bracketed(answer, "[", "]"))?;
    (1.0..=10.0).contains(&found).then_some(found)
}

/// The first `digits[.digits]` between two markers with nothing else between them.
fn bracketed(text: &str, open: &str, close: &str) -> Option<f64> {
    text.match_indices(open).find_map(|(start, _)| {
        let rest = &text[start + open.len()..];
        let number = &rest[..rest.find(close)?];
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) {
            return None;
        }
        number.trim_end_matches('.').parse().ok()
    })
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
            ("Rating: [[ 7 ]]", None),
            ("Rating: [[7/10]]", None),
            ("Rating: 7", None),
            ("Rating: [[.5]]", None),
            ("Rating: [[11]]", None),
            ("Rating: [[0]]", None),
            ("[[", None),
            ("", None),
        ] {
            assert_eq!(rating(answer), expected, "{answer}");
        }
    }
}
