//! `${VAR}` and `${VAR:-default}` inside string values, replaced after parsing, so that a variable's content can
//! never become syntax. `$${` stands for a plain `${`.

use super::problem::Problem;
use super::tree::{Node, Table, Value, join};

/// Replaces in every string of a file's tree; what cannot be replaced is a problem and leaves the tree.
pub(super) fn interpolate(
    table: &mut Table,
    parent: &str,
    variable: &dyn Fn(&str) -> Option<String>,
    problems: &mut Vec<Problem>,
    bad: &mut Vec<String>,
) {
    table.retain(|key, node| {
        let path = join(parent, key);
        let kept = replace_in(node, &path, variable, problems, bad);
        if !kept {
            bad.push(path);
        }
        kept
    });
}

fn replace_in(
    node: &mut Node,
    path: &str,
    variable: &dyn Fn(&str) -> Option<String>,
    problems: &mut Vec<Problem>,
    bad: &mut Vec<String>,
) -> bool {
    match &mut node.value {
        Value::Text(text) => match replace(text, variable) {
            Ok(None) => true,
            Ok(Some(replaced)) => {
                *text = replaced;
                node.opaque = true;
                true
            }
            Err(message) => {
                problems.push(Problem { origin: Some(node.origin.clone()), key: path.to_owned(), message });
                false
            }
        },
        Value::Array(items) => {
            let before = problems.len();
            for (index, item) in items.iter_mut().enumerate() {
                replace_in(item, &format!("{path}[{index}]"), variable, problems, bad);
            }
            problems.len() == before
        }
        Value::Table(table) => {
            interpolate(table, path, variable, problems, bad);
            true
        }
        _ => true,
    }
}

/// None where there is nothing to replace.
fn replace(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, String> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, after) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = &after[2..];
            continue;
        }
        out.push_str(before);
        let Some((inside, after)) = after[2..].split_once('}') else {
            return Err("a `${` has no `}`; write `$${` for a plain `${`".to_owned());
        };
        let (name, default) = inside.split_once(":-").map_or((inside, None), |(name, default)| (name, Some(default)));
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_name {
            return Err(
                "what stands in `${…}` is not the name of a variable; write ${NAME} or ${NAME:-default}, or `$${` for a \
                 plain `${`"
                    .to_owned(),
            );
        }
        // As a shell does it: `:-` also stands in for a variable that is empty.
        match (variable(name), default) {
            (Some(value), None) => out.push_str(&value),
            (Some(value), Some(_)) if !value.is_empty() => out.push_str(&value),
            (_, Some(default)) => out.push_str(default),
            (None, None) => {
                return Err(format!(
                    "the environment variable {name} is not set; set it, or give a default: ${{{name}:-default}}"
                ));
            }
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(Some(out))
}

#[cfg(test)]
mod tests {
    use super::replace;

    fn with(text: &str) -> Result<Option<String>, String> {
        replace(text, &|name| match name {
            "A" => Some("one".to_owned()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${A}".to_owned()),
            _ => None,
        })
    }

    #[test]
    fn variables_are_replaced_once_and_never_again() {
        assert_eq!(with("plain $A {{ x }}").unwrap(), None);
        assert_eq!(with("<${A}|${A}>").unwrap().unwrap(), "<one|one>");
        assert_eq!(with("${NESTED}").unwrap().unwrap(), "${A}");
        assert_eq!(with("${B:-two}").unwrap().unwrap(), "two");
        assert_eq!(with("${B:-}").unwrap().unwrap(), "");
        assert_eq!(with("${EMPTY:-two}").unwrap().unwrap(), "two");
        assert_eq!(with("${EMPTY}").unwrap().unwrap(), "");
        assert_eq!(with("$${A} ${A}").unwrap().unwrap(), "${A} one");
    }

    #[test]
    fn an_unset_variable_is_named_and_content_is_not() {
        assert!(with("${B}").unwrap_err().contains("variable B is not set"));
        assert!(!with("s3cret${").unwrap_err().contains("s3cret"));
        assert!(!with("${s3 cret}").unwrap_err().contains("s3 cret"));
    }
}
