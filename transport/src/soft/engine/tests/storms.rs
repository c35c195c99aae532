//! Thousands of stories: see [`super::story`].

use std::time::Duration;

use super::super::pair::{Random, Weather};
use super::story::{Story, Theme};

fn calm(_: &mut Random) -> Weather {
    Weather::default()
}

fn lossy(random: &mut Random) -> Weather {
    Weather {
        loss: random.below(100),
        duplicates: random.below(100),
        ..Weather::default()
    }
}

fn unordered(random: &mut Random) -> Weather {
    Weather {
        jitter_us: 1 + random.below(300),
        ..lossy(random)
    }
}

fn altered(random: &mut Random) -> Weather {
    Weather {
        corrupt: 1 + random.below(100),
        ..unordered(random)
    }
}

/// Some of `len`, one after the other.
fn blackouts(random: &mut Random, len: Range<u64>) -> Weather {
    let mut at = 0;
    let blackouts = (0..6).map(|_| {
        let start = at + random.below(2000);
        at = start + len.start + random.below(len.end - len.start);
        Duration::from_micros(start)..Duration::from_micros(at)
    });
    Weather {
        blackouts: blackouts.collect(),
        ..Weather::default()
    }
}

use std::ops::Range;

fn short_blackouts(random: &mut Random) -> Weather {
    blackouts(random, 100..40_000)
}

/// Longer than all retries that were agreed on.
fn long_blackouts(random: &mut Random) -> Weather {
    blackouts(random, 600_000..700_000)
}

const BASE: Theme = Theme {
    weather: calm,
    checked: true,
    teardown: false,
    keys: false,
    impatient: false,
    survives: false,
};

fn theme(name: &str) -> Theme {
    let weather = |weather| Theme { weather, ..BASE };
    let survives = |theme| Theme {
        survives: true,
        ..theme
    };
    match name {
        "calm" => survives(BASE),
        "lossy" => weather(lossy),
        "unordered" => weather(unordered),
        "altered" => weather(altered),
        "altered and believed" => Theme {
            checked: false,
            teardown: true,
            keys: true,
            ..weather(altered)
        },
        "short blackouts" => survives(weather(short_blackouts)),
        "long blackouts" => weather(long_blackouts),
        "impatient" => Theme {
            impatient: true,
            ..weather(unordered)
        },
        "torn down" => Theme {
            teardown: true,
            ..weather(unordered)
        },
        "keys go" => Theme {
            keys: true,
            teardown: true,
            ..weather(lossy)
        },
        _ => unreachable!("{name}"),
    }
}

/// Stories of each theme, unless the environment asks for more by STORIES.
const SEEDS: u64 = 400;

#[rstest::rstest]
fn every_message_comes_once_and_in_order_or_all_ends_by_the_book(
    #[values(
        "calm",
        "lossy",
        "unordered",
        "altered",
        "altered and believed",
        "short blackouts",
        "long blackouts",
        "impatient",
        "torn down",
        "keys go"
    )]
    name: &str,
) {
    let seeds = std::env::var("STORIES").map_or(SEEDS, |count| count.parse().unwrap());
    for seed in 0..seeds {
        let story = std::panic::AssertUnwindSafe(|| Story::new(theme(name), seed).play());
        if let Err(panic) = std::panic::catch_unwind(story) {
            eprintln!("{name}, seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
