//! The effective configuration as a `stentor.toml` that says where each value came from.

use std::fmt::Write;

use toml::Value;

use super::Config;
use super::settings::SETTINGS;

impl Config {
    /// TOML of every setting with its help and origin as comments; reading it again gives the same values.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        let mut table = "";
        for setting in SETTINGS {
            let (section, key) = setting.name.rsplit_once('.').unwrap_or(("", setting.name));
            if section != table {
                table = section;
                let _ = write!(out, "\n[{table}]\n");
            }
            let origin = self.origin(setting.name);
            let _ = match (setting.get)(self) {
                Some(Value::Table(map)) => {
                    let inline: Vec<String> =
                        map.iter().map(|(name, value)| format!("{} = {value}", quoted(name))).collect();
                    let body =
                        if inline.is_empty() { "{}".into() } else { format!("{{ {} }}", inline.join(", ")) };
                    writeln!(out, "# {}\n{key} = {body} # {origin}", setting.help)
                }
                Some(value) => writeln!(out, "# {}\n{key} = {value} # {origin}", setting.help),
                None => writeln!(out, "# {}\n# {key} is not set", setting.help),
            };
        }
        out
    }
}

fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}
