//! Supervised fine-tuning of an adapter on a frozen base model.
