use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

#[test]
fn case_space_punctuation_and_width_make_no_difference() {
    for text in
        ["Don't bake  a step-by-step CAKE!", "dont\nbake, a step by step cake", "Ｄｏｎ’ｔ bake a “step‐by‐step” cake…"]
    {
        assert_eq!(normalized(text), "dont bake a step by step cake", "{text}");
    }
    assert_eq!(normalized("Cafe\u{301} №\u{a0}½"), "café no 1 2");
    assert_eq!(normalized("パンを焼く。 Bake"), "パ ン を 焼 く bake");
    assert_eq!(normalized(" ?! "), "");
}

#[test]
fn equal_texts_are_found_and_similar_ones_from_the_threshold_on() {
    let index = TextIndex::new(["Bake a plum cake for two", "How tall is the tower", "Plum cake", "…"]);
    let exact = |index| Some(Match { index, similarity: 1.0, is_exact: true });
    assert_eq!(index.near("bake a PLUM cake, for two."), exact(0));
    assert_eq!((index.exact("How tall is the tower?"), index.exact("How tall is a tower?")), (Some(1), None));
    // 6 words of 7, 5 of 7 (0.71), 4 of 7 (0.57).
    let near = |text: &str| index.near(text).map(|found| (found.index, (found.similarity * 100.0).round()));
    assert_eq!(near("Bake a plum cake for two people"), Some((0, 86.0)));
    assert_eq!(near("Bake a plum cake for three"), Some((0, 71.0)));
    assert_eq!(near("Bake a cherry cake for three"), None);
    // The same words in another order are near, not equal.
    let turned = index.near("Cake, plum").unwrap();
    assert_eq!((turned.index, turned.is_exact), (2, false));
    // What has no words says nothing that could be repeated.
    assert_eq!(index.near("?"), None);
    assert!(TextIndex::new(Vec::<String>::new()).near("a").is_none());
}

#[test]
fn three_of_five_words_are_near_at_three_fifths() {
    let index = TextIndex::new(["a b c d"]);
    assert!((index.near("a b c e").unwrap().similarity - NEAR_DUPLICATE).abs() < 1e-12);
    assert!(TextIndex::with_threshold(["a b c d"], 0.61).near("a b c e").is_none());
}

#[test]
fn clusters_are_joined_through_their_members_and_numbered_by_their_first() {
    let texts = ["a b c d", "x y z", "a b c e", "A, b e c", "X Y Z!", "b c e f", "", ""];
    // 0 and 2 share 3 of 5 words; 2 and 5 share 3 of 5, 0 and 5 only 2 of 6.
    assert_eq!(clusters(&texts, 0.6), [0, 1, 0, 0, 1, 0, 2, 3]);
    assert_eq!(clusters(&texts, 1.0), [0, 1, 2, 2, 1, 3, 4, 5]);
    assert_eq!(clusters(&[""; 0], 0.6), [0; 0]);
}

/// The set of a text's words, compared without an index.
fn plain_jaccard(one: &str, two: &str) -> f64 {
    let set = |text: &str| text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect::<HashSet<_>>();
    let (one, two) = (set(one), set(two));
    let all = one.union(&two).count();
    if all == 0 { 0.0 } else { one.intersection(&two).count() as f64 / all as f64 }
}

proptest! {
    /// The index leaves nothing out that a comparison of all with all finds.
    #[test]
    fn an_index_finds_what_comparing_all_finds(
        texts in prop::collection::vec("[a-h]( [a-h]){0,7}", 0..12),
        asked in "[a-k]( [a-k]){0,7}",
        threshold in prop::sample::select(vec![0.3, 0.5, 0.6, 0.75, 1.0]),
    ) {
        let found = TextIndex::with_threshold(&texts, threshold).near(&asked);
        let similarity = |text: &String| if *text == asked { 2.0 } else { plain_jaccard(text, &asked) };
        let best = texts.iter().map(similarity).fold(0.0, f64::max);
        if best >= threshold {
            let found = found.unwrap();
            prop_assert_eq!(Some(found.index), texts.iter().position(|text| similarity(text) >= best));
            prop_assert_eq!(found.is_exact, best > 1.0);
            prop_assert!((found.similarity - best.min(1.0)).abs() < 1e-12);
        } else {
            prop_assert_eq!(found, None);
        }
    }

    #[test]
    fn clusters_are_the_components_of_all_similar_pairs(texts in prop::collection::vec("[a-f]( [a-f]){0,5}", 0..10)) {
        let found = clusters(&texts, NEAR_DUPLICATE);
        let mut expected: Vec<usize> = (0..texts.len()).collect();
        for _ in 0..texts.len() {
            for one in 0..texts.len() {
                for two in 0..texts.len() {
                    if plain_jaccard(&texts[one], &texts[two]) >= NEAR_DUPLICATE {
                        let least = expected[one].min(expected[two]);
                        (expected[one], expected[two]) = (least, least);
                    }
                }
            }
        }
        for one in 0..texts.len() {
            for two in 0..texts.len() {
                prop_assert_eq!(found[one] == found[two], expected[one] == expected[two]);
            }
        }
    }
}
