//! The fuzz targets on random bytes, so that they keep building and holding.

use hyperdht_proto::fuzz;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_packet_is_answered(input: Vec<u8>, type_byte: u8, offset: u8) {
        fuzz::udx_packet(&input);
        let mut packet = vec![0xff, 1, type_byte, offset];
        packet.extend(input);
        fuzz::udx_packet(&packet);
    }

    #[test]
    fn a_stream_survives_anything(input in prop::collection::vec(any::<u8>(), 0..1500)) {
        fuzz::udx_stream(&input);
    }
}
