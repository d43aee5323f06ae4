//! Numbers of a spreadsheet as a reader sees them: dates, times, percentages, and else the number.

use time::Date;

/// How a cell shows its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Format {
    #[default]
    General,
    Date,
    Time,
    Both,
    /// Of hours, which may be more than 24.
    Duration,
    /// With so many decimals.
    Percent(u8),
}

/// The format of a number that every file knows without saying so.
pub(super) fn built_in(id: usize) -> Format {
    match id {
        9 => Format::Percent(0),
        10 => Format::Percent(2),
        14..=17 | 27..=31 | 36 | 50..=54 | 57 | 58 => Format::Date,
        18..=21 | 32..=35 | 45 | 47 | 55 | 56 => Format::Time,
        22 => Format::Both,
        46 => Format::Duration,
        _ => Format::General,
    }
}

/// The format that a code such as `dd.mm.yyyy` describes, by its part for positive numbers.
pub(super) fn of_code(code: &str) -> Format {
    let (mut days, mut hours, mut percent, mut decimals, mut point) = (false, false, false, 0_u8, false);
    let mut chars = code.chars();
    while let Some(c) = chars.next() {
        match c {
            ';' => break,
            '"' => while chars.next().is_some_and(|c| c != '"') {},
            '\\' | '_' | '*' => {
                chars.next();
            }
            '[' => {
                let inner: String = chars.by_ref().take_while(|c| *c != ']').collect();
                if !inner.is_empty() && inner.chars().all(|c| matches!(c, 'h' | 'H' | 'm' | 'M' | 's' | 'S'))
                {
                    return Format::Duration;
                }
            }
            'y' | 'Y' | 'd' | 'D' => days = true,
            'h' | 'H' | 's' | 'S' => hours = true,
            '%' => percent = true,
            '.' => point = true,
            '0' if point => decimals = decimals.saturating_add(1).min(10),
            // `General` and words such as `Standard` are no dates.
            'G' | 'g' if code.to_ascii_lowercase().starts_with("general") => return Format::General,
            _ => {}
        }
    }
    match (days, hours, percent) {
        (true, true, _) => Format::Both,
        (true, false, _) => Format::Date,
        (false, true, _) => Format::Time,
        (_, _, true) => Format::Percent(decimals),
        // Months alone.
        _ if code.starts_with("mmm") => Format::Date,
        _ => Format::General,
    }
}

/// A number as text; what is none stays as it is.
pub(super) fn show(text: &str, format: Format, since_1904: bool) -> String {
    let text = text.trim();
    let Some(number) = text.parse::<f64>().ok().filter(|number| number.is_finite()) else {
        return text.to_owned();
    };
    let dated = match format {
        Format::General => None,
        Format::Percent(decimals) => Some(format!("{:.*}%", usize::from(decimals), number * 100.0)),
        Format::Duration => duration(number),
        Format::Date => moment(number, since_1904).map(|(date, time)| match (date, time.as_str()) {
            (date, "00:00") => date,
            (date, time) => format!("{date} {time}"),
        }),
        Format::Both => moment(number, since_1904).map(|(date, time)| format!("{date} {time}")),
        Format::Time if number < 1.0 => moment(number, since_1904).map(|(_, time)| time),
        Format::Time => moment(number, since_1904).map(|(date, time)| format!("{date} {time}")),
    };
    dated.unwrap_or_else(|| general(number))
}

/// With 15 digits, as spreadsheets count, so that 0.1 + 0.2 is 0.3.
fn general(number: f64) -> String {
    let rounded = format!("{number:.14e}").parse::<f64>().unwrap_or(number);
    match rounded.abs() {
        0.0 => "0".to_owned(),
        1e-7..1e21 => rounded.to_string(),
        _ => format!("{rounded:e}"),
    }
}

fn duration(number: f64) -> Option<String> {
    let seconds = (number * 86_400.0).round();
    if !(0.0..1e12).contains(&seconds) {
        return None;
    }
    let seconds = seconds as u64;
    Some(format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60))
}

/// The day and the time of a count of days.
fn moment(number: f64, since_1904: bool) -> Option<(String, String)> {
    /// The Julian day of 1899-12-30, from which days are counted, and of 1904-01-01.
    const STARTS: (i32, i32) = (2_415_019, 2_416_481);
    /// 9999-12-31.
    const LAST: f64 = 2_958_466.0;
    if !(0.0..LAST).contains(&number) {
        return None;
    }
    let seconds = (number * 86_400.0).round() as i64;
    let (days, seconds) = ((seconds / 86_400) as i32, seconds % 86_400);
    let day = match (since_1904, days) {
        (true, days) => STARTS.1 + days,
        // Days before that of 1900-02-29, which there was not, are one off.
        (false, 1..60) => STARTS.0 + days + 1,
        (false, days) => STARTS.0 + days,
    };
    let date = Date::from_julian_day(day).ok()?;
    let date = format!("{:04}-{:02}-{:02}", date.year(), u8::from(date.month()), date.day());
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let time = match second {
        0 => format!("{hour:02}:{minute:02}"),
        _ => format!("{hour:02}:{minute:02}:{second:02}"),
    };
    Some((date, time))
}

#[cfg(test)]
mod tests {
    use super::{Format, built_in, of_code, show};

    #[test]
    fn codes_are_told_apart() {
        for (code, format) in [
            ("General", Format::General),
            ("0.00", Format::General),
            ("#,##0.00 \"days\"", Format::General),
            ("dd.mm.yyyy", Format::Date),
            ("[$-407]d. mmmm yyyy;@", Format::Date),
            ("yyyy-mm-dd hh:mm", Format::Both),
            ("hh:mm:ss AM/PM", Format::Time),
            ("[h]:mm", Format::Duration),
            ("[Red]0.00", Format::General),
            ("0.0%", Format::Percent(1)),
            ("mmm-yy", Format::Date),
        ] {
            assert_eq!(of_code(code), format, "{code}");
        }
        assert_eq!(
            (built_in(14), built_in(0), built_in(10)),
            (Format::Date, Format::General, Format::Percent(2))
        );
    }

    #[test]
    fn numbers_are_shown_as_they_are_seen() {
        for (number, format, text) in [
            ("0.30000000000000004", Format::General, "0.3"),
            ("1234567.5", Format::General, "1234567.5"),
            ("-5", Format::General, "-5"),
            ("1e300", Format::General, "1e300"),
            ("NaN", Format::General, "NaN"),
            ("text", Format::Date, "text"),
            ("45351", Format::Date, "2024-02-29"),
            ("1", Format::Date, "1900-01-01"),
            ("61", Format::Date, "1900-03-01"),
            ("-1", Format::Date, "-1"),
            ("1e9", Format::Date, "1000000000"),
            ("45351.5", Format::Both, "2024-02-29 12:00"),
            ("0.354166666666667", Format::Time, "08:30"),
            ("1.5", Format::Duration, "36:00:00"),
            ("0.125", Format::Percent(1), "12.5%"),
        ] {
            assert_eq!(show(number, format, false), text, "{number} {format:?}");
        }
        assert_eq!(show("0", Format::Date, true), "1904-01-01");
    }
}
