//! The three shapes of a wire type: a structure, a bit field, an open code.

/// A little-endian structure of exactly the stated number of bytes, any bit
/// pattern of which is valid. `Default` is all zeros.
macro_rules! wire {
    ($(#[$meta:meta])* pub struct $name:ident: $size:literal { $($body:tt)* }) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable,
            zerocopy::KnownLayout, zerocopy::Unaligned,
        )]
        #[repr(C)]
        pub struct $name { $($body)* }

        const _: () = assert!(size_of::<$name>() == $size);

        impl Default for $name {
            fn default() -> Self {
                zerocopy::FromZeros::new_zeroed()
            }
        }
    };
}

/// A little-endian word cut into fields, lowest bit first.
macro_rules! bits {
    ($(#[$meta:meta])* pub struct $name:ident: u8 { $($body:tt)* }) => {
        bits!(@ u8 [bitfield_struct::bitfield(u8)] $(#[$meta])* $name { $($body)* });
    };
    ($(#[$meta:meta])* pub struct $name:ident: u16 { $($body:tt)* }) => {
        bits!(@ u16 [bitfield_struct::bitfield(u16, repr = zerocopy::little_endian::U16,
            from = zerocopy::little_endian::U16::new, into = zerocopy::little_endian::U16::get)]
            $(#[$meta])* $name { $($body)* });
    };
    ($(#[$meta:meta])* pub struct $name:ident: u32 { $($body:tt)* }) => {
        bits!(@ u32 [bitfield_struct::bitfield(u32, repr = zerocopy::little_endian::U32,
            from = zerocopy::little_endian::U32::new, into = zerocopy::little_endian::U32::get)]
            $(#[$meta])* $name { $($body)* });
    };
    ($(#[$meta:meta])* pub struct $name:ident: u64 { $($body:tt)* }) => {
        bits!(@ u64 [bitfield_struct::bitfield(u64, repr = zerocopy::little_endian::U64,
            from = zerocopy::little_endian::U64::new, into = zerocopy::little_endian::U64::get)]
            $(#[$meta])* $name { $($body)* });
    };
    (@ $int:ident [$bitfield:meta] $(#[$meta:meta])* $name:ident { $($body:tt)* }) => {
        #[$bitfield]
        #[derive(
            PartialEq, Eq,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable,
            zerocopy::KnownLayout, zerocopy::Unaligned,
        )]
        $(#[$meta])*
        pub struct $name { $($body)* }

        impl $name {
            /// The fields of a word in the CPU's order.
            pub const fn from_raw(raw: $int) -> Self {
                Self::from_bits(bits!(@new $int raw))
            }

            /// The word in the CPU's order.
            pub const fn raw(&self) -> $int {
                bits!(@get $int self.into_bits())
            }
        }
    };
    (@new u8 $raw:expr) => { $raw };
    (@new u16 $raw:expr) => { zerocopy::little_endian::U16::new($raw) };
    (@new u32 $raw:expr) => { zerocopy::little_endian::U32::new($raw) };
    (@new u64 $raw:expr) => { zerocopy::little_endian::U64::new($raw) };
    (@get u8 $bits:expr) => { $bits };
    (@get $int:ident $bits:expr) => { $bits.get() };
}

/// A code of one byte: the named values, and any other.
macro_rules! codes {
    ($(#[$meta:meta])* pub enum $name:ident { $($body:tt)* }) => {
        #[open_enum::open_enum]
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable,
            zerocopy::KnownLayout, zerocopy::Unaligned,
        )]
        #[repr(u8)]
        $(#[$meta])*
        pub enum $name { $($body)* }

        impl $name {
            /// The code as it stands in a field.
            pub const fn into_bits(self) -> u8 {
                self.0
            }

            /// The code that a field holds, known or not.
            pub const fn from_bits(bits: u8) -> Self {
                Self(bits)
            }
        }
    };
}

/// A command's own reading of the 64 bytes of an SQE.
macro_rules! command {
    ($(#[$meta:meta])* pub struct $name:ident { $($body:tt)* }) => {
        wire! { $(#[$meta])* pub struct $name: 64 { $($body)* } }

        impl From<crate::spec::Sqe> for $name {
            fn from(sqe: crate::spec::Sqe) -> Self {
                zerocopy::transmute!(sqe)
            }
        }

        impl From<$name> for crate::spec::Sqe {
            fn from(command: $name) -> Self {
                zerocopy::transmute!(command)
            }
        }
    };
}
