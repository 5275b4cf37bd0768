//! Enums whose values have a word: on the wire, in a log, or as a label of a metric.

/// Declares such an enum from its values and their words, with all of them in a list, which counters are kept by.
macro_rules! words {
    ($(#[$about:meta])* $visible:vis enum $name:ident { $($(#[$what:meta])* $value:ident = $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $visible enum $name { $($(#[$what])* $value,)+ }

        impl $name {
            /// All of them, in the order of their declaration.
            $visible const ALL: [Self; [$($word),+].len()] = [$(Self::$value),+];

            /// Its word.
            $visible fn as_str(self) -> &'static str {
                match self { $(Self::$value => $word,)+ }
            }
        }
    };
}

pub(crate) use words;
