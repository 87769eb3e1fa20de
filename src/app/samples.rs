//! Metrics as a scrape gives them, read again: what a page or a verb says of them is what a dashboard shows.

/// One line of the text format.
#[derive(Debug, PartialEq)]
pub(super) struct Sample<'t> {
    pub(super) name: &'t str,
    labels: Vec<(&'t str, &'t str)>,
    pub(super) value: f64,
}

impl<'t> Sample<'t> {
    /// Labels of ours hold neither quotes nor commas.
    fn parse(line: &'t str) -> Option<Self> {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}')?),
            None => (series, ""),
        };
        let label = |text: &'t str| Some((text.split_once('=')?.0, text.split_once('=')?.1.trim_matches('"')));
        Some(Self { name, labels: labels.split(',').filter_map(label).collect(), value: value.parse().ok()? })
    }

    pub(super) fn label(&self, name: &str) -> Option<&'t str> {
        self.labels.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }
}

/// Every sample of a scrape.
pub(super) fn samples(text: &str) -> impl Iterator<Item = Sample<'_>> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(Sample::parse)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float is cut to the integer's range")]
pub(super) fn whole(value: f64) -> u64 {
    value as u64
}
