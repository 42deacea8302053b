//! Room for keys and values: how many prompts can be continued side by side.

use super::GenerationSettings;
use crate::model::{Portions, kv_cache::bytes_a_token, transformer::Transformer};

/// What bounds a batch of prompts.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// Most prompts.
    prompts: usize,
    /// Most slots of all prompts together, unless there is only one.
    slots: usize,
    /// Most tokens that a prompt is continued by.
    new_tokens: usize,
    /// Most tokens of a prompt with its continuation.
    context: usize,
}

impl Room {
    pub(super) fn new(model: &Transformer, settings: &GenerationSettings) -> Self {
        Self {
            prompts: settings.batch_size,
            slots: Portions::on(model.device).cache_bytes / bytes_a_token(model.config, model.kind).max(1),
            new_tokens: settings.max_new_tokens,
            context: model.config.max_position_embeddings,
        }
    }

    /// Slots that each of some prompts has in the end: prompts end at the same one, so the longest says where continuations
    /// begin, and the shortest, which the context lets go on for longest, where they end.
    pub(super) fn slots_each(self, shortest: usize, longest: usize) -> usize {
        longest + self.new_tokens.min(self.context.saturating_sub(shortest))
    }

    /// Cuts prompts, shortest first, into batches that there is room for.
    pub(super) fn cut(self, mut prompts: &[usize], length: impl Fn(usize) -> usize) -> Vec<&[usize]> {
        let mut batches = Vec::new();
        while let Some(&shortest) = prompts.first() {
            let fits = |(others, prompt): &(usize, &usize)| {
                (others + 1) * self.slots_each(length(shortest), length(**prompt)) <= self.slots
            };
            let fitting = prompts.iter().take(self.prompts).enumerate().take_while(fits).count();
            let (batch, others) = prompts.split_at(fitting.max(1));
            batches.push(batch);
            prompts = others;
        }
        batches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTHS: [usize; 8] = [3, 3, 4, 5, 20, 20, 70, 90];

    fn sizes(room: Room) -> Vec<usize> {
        let order: Vec<usize> = (0..LENGTHS.len()).collect();
        let batches = room.cut(&order, |prompt| LENGTHS[prompt]);
        assert_eq!(batches.concat(), order);
        batches.iter().map(|batch| batch.len()).collect()
    }

    #[test]
    fn batches_keep_to_both_bounds_and_one_long_prompt_makes_no_other_batch_small() {
        let room = Room { prompts: 3, slots: 60, new_tokens: 10, context: 100 };
        // Three of 14 slots each, two of 30, and alone those of 30, 80 and 100.
        assert_eq!(sizes(room), [3, 2, 1, 1, 1]);
        assert_eq!(sizes(Room { prompts: 2, ..room }), [2, 2, 2, 1, 1]);
        assert_eq!(sizes(Room { prompts: 8, slots: usize::MAX, ..room }), [8]);
        assert_eq!(sizes(Room { slots: 0, ..room }), [1; 8]);
    }

    #[test]
    fn the_context_ends_rows_from_their_own_begin() {
        let room = Room { prompts: 8, slots: 0, new_tokens: usize::MAX, context: 100 };
        // The short one goes on for 97 tokens behind slot 90.
        assert_eq!(room.slots_each(3, 90), 187);
        assert_eq!(room.slots_each(100, 100), 100);
        assert_eq!(Room { new_tokens: 5, ..room }.slots_each(3, 90), 95);
    }
}
