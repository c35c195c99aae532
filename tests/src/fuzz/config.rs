//! The text of a configuration.

use sidelane_config::Config;

/// A configuration is either understood, and the same when it is printed and
/// read again; or the mistakes are told.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match Config::parse(text, "fuzz.toml") {
        Ok(config) => {
            assert!(!config.listeners.is_empty() && !config.target.cores.is_empty());
            let _ = config.remarks();
            let printed = toml::to_string(&config).expect("it is a table");
            let again = Config::parse(&printed, "printed");
            assert_eq!(again.as_ref(), Ok(&config), "{printed}");
        }
        Err(errors) => assert!(!errors.to_string().is_empty()),
    }
}
