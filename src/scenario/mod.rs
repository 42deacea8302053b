//! Scenario files: raw as written, resolved as run.
