//! How rules are registered: one line each.

/// Declares a room's rules: modules, re-exports, and an enum of their settings as scenarios have them
/// (`{ kind = "krum", byzantine = 1 }`).
macro_rules! registry {
    ($(#[$docs:meta])* $name:ident of $rule:ident { $($kind:literal => $module:ident::$type:ident,)+ }) => {
        $(mod $module;)+
        $(pub use $module::$type;)+

        $(#[$docs])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(tag = "kind")]
        pub enum $name {
            $(
                #[doc = concat!("`", $kind, "`")]
                #[serde(rename = $kind)]
                $type($type),
            )+
        }

        impl $name {
            /// The names of all rules of this room.
            pub const NAMES: &[&str] = &[$($kind),+];

            /// Its name in scenarios and records.
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$type(_) => $kind,)+ }
            }

            /// The rule with these settings.
            pub fn rule(&self) -> &dyn $rule {
                match self { $(Self::$type(rule) => rule,)+ }
            }
        }
    };
}

pub(crate) use registry;
