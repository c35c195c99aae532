//! What befalls packets by chance: loss, copies, delay, altered bits, blackouts.

use std::ops::Range;
use std::time::Duration;

use super::Random;

/// How bad a network is; the shares are of a thousand packets.
#[derive(Debug, Clone, Default)]
pub struct Weather {
    pub loss: u64,
    pub duplicates: u64,
    /// With bits turned over.
    pub corrupt: u64,
    /// Each packet is late by up to so much: later ones overtake it.
    pub jitter_us: u64,
    /// What is sent in these times, counted from the start, does not arrive.
    pub blackouts: Vec<Range<Duration>>,
}

/// A weather, and the dice for it.
pub struct Sky {
    weather: Weather,
    random: Random,
}

impl Sky {
    pub fn new(weather: Weather, seed: u64) -> Self {
        Self {
            weather,
            random: Random::new(seed),
        }
    }

    /// All that is sent arrives as it is.
    pub fn clear() -> Self {
        Self::new(Weather::default(), 0)
    }

    /// The copies of a packet that arrive, and how late each is.
    pub fn pass(&mut self, since_start: Duration, bytes: &[u8]) -> Vec<(Duration, Vec<u8>)> {
        let (weather, random) = (&self.weather, &mut self.random);
        let dark = weather
            .blackouts
            .iter()
            .any(|dark| dark.contains(&since_start));
        let copies = 1 + u64::from(random.permille(weather.duplicates));
        let mut passed = Vec::new();
        for _ in 0..copies {
            if dark || random.permille(weather.loss) {
                continue;
            }
            let mut bytes = bytes.to_vec();
            if random.permille(weather.corrupt) {
                for _ in 0..=random.below(4) {
                    let at = random.below(bytes.len() as u64) as usize;
                    bytes[at] ^= 1 << random.below(8);
                }
            }
            passed.push((
                Duration::from_micros(random.below(weather.jitter_us)),
                bytes,
            ));
        }
        passed
    }
}
