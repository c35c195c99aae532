//! Mistakes in `[[provider]]`.

use super::*;

#[rstest::rstest]
#[case::kind_missing("id = \"a\"", "[[provider]]", "kind = ")]
#[case::kind_unknown("id = \"a\"\nkind = \"cbm\"", "\"cbm\"", "did you mean \"cmb\"")]
#[case::device_missing("id = \"a\"\nkind = \"cmb\"", "[[provider]]", "device = ")]
#[case::device_odd("id = \"a\"\nkind = \"cmb\"\ndevice = \"nvme0\"", "\"nvme0\"", "lspci")]
#[case::device_of_host(
    "id = \"a\"\nkind = \"host\"\nsize = 4096\ndevice = \"05:00.0\"",
    "\"05:00.0\"",
    "no device"
)]
#[case::size_missing("id = \"a\"\nkind = \"host\"", "[[provider]]", "size = ")]
#[case::size_zero("id = \"a\"\nkind = \"host\"\nsize = 0", "0", "zero")]
#[case::size_uneven(
    "id = \"a\"\nkind = \"host\"\nsize = \"5 KiB\"",
    "\"5 KiB\"",
    "multiple of 4096"
)]
#[case::size_negative("id = \"a\"\nkind = \"host\"\nsize = -1", "-1", "negative")]
#[case::size_unit("id = \"a\"\nkind = \"host\"\nsize = \"5 MB\"", "\"5 MB\"", "MiB")]
#[case::size_type("id = \"a\"\nkind = \"host\"\nsize = true", "true", "64 MiB")]
#[case::reserved(
    "id = \"auto\"\nkind = \"host\"\nsize = 4096",
    "\"auto\"",
    "another name"
)]
#[case::id_twice(
    "id = \"mine\"\nkind = \"host\"\nsize = 4096",
    "\"mine\"",
    "same provider"
)]
#[case::device_twice(
    "id = \"b\"\nkind = \"cmb\"\ndevice = \"04:00.0\"",
    "\"04:00.0\"",
    "one CMB"
)]
#[case::published_twice(
    "id = \"b\"\nkind = \"p2pmem\"\ndevice = \"07:00.0\"",
    "\"07:00.0\"",
    "publishes one piece"
)]
#[case::published_and_taken(
    "id = \"b\"\nkind = \"p2pmem\"\ndevice = \"04:00.0\"",
    "\"04:00.0\"",
    "leaves this function to the kernel"
)]
#[case::taken_and_published(
    "id = \"b\"\nkind = \"cmb\"\ndevice = \"07:00.0\"",
    "\"07:00.0\"",
    "leaves this function to the kernel"
)]
#[case::bar_of_published(
    "id = \"b\"\nkind = \"p2pmem\"\ndevice = \"05:00.0\"\nbar = 2",
    "2",
    "only a provider of kind \"bar\""
)]
#[case::bar_missing(
    "id = \"b\"\nkind = \"bar\"\ndevice = \"05:00.0\"",
    "[[provider]]",
    "bar = 2"
)]
#[case::bar_beyond(
    "id = \"b\"\nkind = \"bar\"\ndevice = \"05:00.0\"\nbar = 6",
    "6",
    "0 to 5"
)]
#[case::bar_twice(
    "id = \"b\"\nkind = \"bar\"\ndevice = \"06:00.0\"\nbar = 2",
    "\"06:00.0\"",
    "same BAR"
)]
#[case::bar_of_an_ssd(
    "id = \"b\"\nkind = \"bar\"\ndevice = \"04:00.0\"\nbar = 2",
    "\"04:00.0\"",
    "over its registers"
)]
#[case::ssd_of_a_bar(
    "id = \"b\"\nkind = \"pmr\"\ndevice = \"06:00.0\"",
    "\"06:00.0\"",
    "over its registers"
)]
#[case::bar_of_a_cmb(
    "id = \"b\"\nkind = \"cmb\"\ndevice = \"05:00.0\"\nbar = 2",
    "2",
    "only a provider of kind \"bar\""
)]
#[case::offset_of_a_pmr(
    "id = \"b\"\nkind = \"pmr\"\ndevice = \"05:00.0\"\noffset = 4096",
    "4096",
    "only a provider of kind \"bar\""
)]
#[case::offset_uneven(
    "id = \"b\"\nkind = \"bar\"\ndevice = \"05:00.0\"\nbar = 2\noffset = 512",
    "512",
    "multiple of 4096"
)]
fn mistakes_in_a_provider(#[case] lines: &str, #[case] marked: &str, #[case] said: &str) {
    let mine = "[[provider]]\nid = \"mine\"\nkind = \"cmb\"\ndevice = \"0000:04:00.0\"\n\
                [[provider]]\nid = \"window\"\nkind = \"bar\"\ndevice = \"0000:06:00.0\"\nbar = 2\n\
                [[provider]]\nid = \"published\"\nkind = \"p2pmem\"\ndevice = \"0000:07:00.0\"\n";
    assert_refused(
        &format!("{}{mine}[[provider]]\n{lines}\n", with("", SSD)),
        marked,
        said,
    );
}
