//! The fuzz target on random bytes, so that it keeps building and holding. libFuzzer runs it from
//! `hyperdht/proto/fuzz`.

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_frames_are_answered_within_the_limits(
        input in prop::collection::vec(prop_oneof![0_u8..4, any::<u8>()], 0..1500),
    ) {
        protomux::fuzz::frames(&input);
    }
}
