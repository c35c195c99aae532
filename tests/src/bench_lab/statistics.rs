//! The few figures by which two targets are compared.
//!
//! A row is measured in rounds, the targets forwards and backwards by turns
//! (A B, B A, ...). The runs of one round make a pair, and only the ratio within
//! a pair counts: the machine drifts between rounds.

use std::collections::BTreeMap;

/// What the runs of one target in one row gave, by round. Rounds may be missing.
pub type Rounds = BTreeMap<u32, f64>;

/// The middle value, or the mean of the middle two.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    Some(match sorted.len() % 2 {
        0 => (sorted[sorted.len() / 2 - 1] + upper) / 2.0,
        _ => upper,
    })
}

/// Several values at a glance.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The least.
    pub low: f64,
    /// The greatest.
    pub high: f64,
    /// How many there are.
    pub count: usize,
}

impl Spread {
    /// Of no values there is none.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        Some(Self {
            median: median(values)?,
            low: values.iter().copied().fold(f64::INFINITY, f64::min),
            high: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            count: values.len(),
        })
    }
}

/// Ratios of `target` to `reference`, one for each round that both have.
#[must_use]
pub fn pair_ratios(target: &Rounds, reference: &Rounds) -> Vec<f64> {
    target
        .iter()
        .filter_map(|(round, value)| Some(value / reference.get(round)?))
        .collect()
}

/// How far the runs of one target are from each other: the median ratio, never
/// below 1, of any two of them, squared. Less than two runs say nothing.
///
/// The median of all two-by-twos, because one run that something disturbed must
/// not make everything level. Squared, because a typical ratio is passed by chance
/// in one comparison of nine; so it is, with 5 pairs, in one of 37.
#[must_use]
pub fn noise_floor(rounds: &Rounds) -> Option<f64> {
    let values: Vec<f64> = rounds.values().copied().collect();
    let ratios: Vec<f64> = values
        .iter()
        .enumerate()
        .flat_map(|(index, one)| values[..index].iter().map(move |other| one / other))
        .map(|ratio| ratio.max(1.0 / ratio))
        .collect();
    Some(median(&ratios)?.powi(2))
}

/// How a median ratio stands to 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Above 1 by more than the noise.
    Above,
    /// No further from 1 than the reference is from itself.
    Level,
    /// Below 1 by more than the noise.
    Below,
    /// Within a noise so great that it says nothing, see [`MOST_NOISE`].
    Unclear,
}

/// The noise up to which two targets can be found level.
pub const MOST_NOISE: f64 = 1.5;

impl Verdict {
    /// The verdict on a ratio, where `floor` (at least 1) is noise.
    #[must_use]
    pub fn on(ratio: f64, floor: f64) -> Self {
        match ratio {
            ratio if ratio > floor => Self::Above,
            ratio if ratio * floor < 1.0 => Self::Below,
            _ if floor > MOST_NOISE => Self::Unclear,
            _ => Self::Level,
        }
    }
}

/// The mean of ratios: 2 and 1/2 make 1.
#[must_use]
pub fn geometric_mean(ratios: &[f64]) -> Option<f64> {
    let sum: f64 = ratios.iter().map(|ratio| ratio.ln()).sum();
    (!ratios.is_empty()).then(|| (sum / ratios.len() as f64).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(values: &[(u32, f64)]) -> Rounds {
        values.iter().copied().collect()
    }

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        let cases: [(&[f64], Option<f64>); 5] = [
            (&[], None),
            (&[3.0], Some(3.0)),
            (&[9.0, 1.0], Some(5.0)),
            (&[9.0, 1.0, 2.0], Some(2.0)),
            (&[4.0, 100.0, 1.0, 2.0], Some(3.0)),
        ];
        for (values, expected) in cases {
            assert_eq!(median(values), expected, "{values:?}");
        }
    }

    #[test]
    fn one_outlier_moves_the_spread_and_not_the_median() {
        let spread = Spread::of(&[1.0, 1.1, 0.9, 1.0, 7.0]).expect("values");
        assert_eq!((spread.median, spread.low, spread.high), (1.0, 0.9, 7.0));
        assert_eq!(spread.count, 5);
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn a_drift_that_both_share_is_not_in_the_ratios_of_pairs() {
        // The machine gets three times slower; B has twice of A in every round.
        let a = rounds(&[(0, 300.0), (1, 200.0), (2, 100.0)]);
        let b = rounds(&[(0, 600.0), (1, 400.0), (2, 200.0)]);
        assert_eq!(pair_ratios(&b, &a), [2.0, 2.0, 2.0]);
    }

    #[test]
    fn a_round_that_one_of_two_lacks_gives_no_pair() {
        let a = rounds(&[(0, 100.0), (2, 100.0), (3, 100.0)]);
        let b = rounds(&[(0, 50.0), (1, 999.0), (3, 200.0)]);
        assert_eq!(pair_ratios(&b, &a), [0.5, 2.0]);
    }

    #[test]
    fn a_drift_within_a_round_cancels_over_two_when_the_second_goes_backwards() {
        // Each run is 10 % slower than the one before: A B, B A of two equal targets.
        let at = |place: i32| 0.9_f64.powi(place);
        let a = rounds(&[(0, at(0)), (1, at(3))]);
        let b = rounds(&[(0, at(1)), (1, at(2))]);
        let mean = geometric_mean(&pair_ratios(&b, &a)).expect("pairs");
        assert!((mean - 1.0).abs() < 1e-12, "{mean}");
    }

    #[test]
    fn the_noise_floor_is_the_typical_ratio_of_two_runs_squared() {
        let cases = [
            (vec![], None),
            (vec![(0, 100.0)], None),
            (vec![(0, 100.0), (1, 100.0)], Some(1.0)),
            (vec![(0, 100.0), (4, 50.0)], Some(4.0)),
            // 1.25, 1.5 and 1.2.
            (vec![(0, 100.0), (1, 125.0), (2, 150.0)], Some(1.5625)),
        ];
        for (values, expected) in cases {
            assert_eq!(noise_floor(&rounds(&values)), expected, "{values:?}");
        }
    }

    #[test]
    fn one_disturbed_run_does_not_make_everything_level() {
        let calm = [(0, 100.0), (1, 102.0), (2, 101.0), (3, 100.0), (4, 99.0)];
        let mut disturbed = calm;
        disturbed[2].1 = 2.0;
        let floor = noise_floor(&rounds(&disturbed)).expect("runs");
        assert!((1.0..1.1).contains(&floor), "{floor}");
    }

    /// Numbers around 0 with a standard deviation of 1, bell-shaped; the same ones each time.
    fn bell(state: &mut u64) -> f64 {
        let mut next = || {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            (*state >> 11) as f64 / (1_u64 << 53) as f64
        };
        (0..12).map(|_| next()).sum::<f64>() - 6.0
    }

    #[test]
    fn by_chance_few_rows_of_equal_targets_are_called_below() {
        let (mut state, rows) = (0x2545_f491_4f6c_dd1d, 20_000);
        let mut below = 0;
        for _ in 0..rows {
            let mut runs = || -> Rounds {
                (0..5)
                    .map(|r| (r, (0.1 * bell(&mut state)).exp()))
                    .collect()
            };
            let (reference, target) = (runs(), runs());
            let ratio = median(&pair_ratios(&target, &reference)).expect("pairs");
            let floor = noise_floor(&reference).expect("runs");
            below += u32::from(Verdict::on(ratio, floor) == Verdict::Below);
        }
        let share = f64::from(below) / f64::from(rows);
        assert!((0.015..0.04).contains(&share), "{share}");
    }

    #[test]
    fn within_the_noise_two_targets_are_level_unless_it_is_great() {
        let cases = [
            (1.0, 1.0, Verdict::Level),
            (1.1, 1.1, Verdict::Level),
            (1.2, 1.1, Verdict::Above),
            (0.92, 1.1, Verdict::Level),
            (0.90, 1.1, Verdict::Below),
            (0.99, 1.0, Verdict::Below),
            (0.99, 1.6, Verdict::Unclear),
            (0.50, 1.6, Verdict::Below),
            (1.70, 1.6, Verdict::Above),
        ];
        for (ratio, floor, expected) in cases {
            assert_eq!(Verdict::on(ratio, floor), expected, "{ratio} at {floor}");
        }
    }

    #[test]
    fn twice_and_half_make_one() {
        let mean = geometric_mean(&[2.0, 0.5]).expect("ratios");
        assert!((mean - 1.0).abs() < 1e-12);
        assert_eq!(geometric_mean(&[]), None);
    }
}
