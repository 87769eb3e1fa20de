//! CEL filters: compiled, checked against the event's shape, evaluated.
//!
//! CEL has no loops; its macros (`all`, `exists`, `map`, `filter`) walk a list or an object of the event. The text is
//! at most [`MAX_BYTES`] long, macros nest at most [`MAX_MACRO_DEPTH`] deep and expressions [`MAX_DEPTH`], so that
//! evaluation ends and fits on its stack. What it may cost beyond is up to who writes it: each link of a chain of `map`
//! or `replace` may make its text some times longer.

use std::iter;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedEntryExpr, IdedExpr, LiteralValue, SelectExpr, operators};
use cel::common::types::CelString;
use cel::{Context, Env, ExecutionError, Program, Value, extensions};

use super::error::Problem;
use super::looked_up::{LookedUp, unknown_member};
use super::members::{self, Plain};
use super::shape::{Uses, Variable, nearest};
use super::view::View;
use crate::event::Recorded;

/// Longest filter, in bytes.
pub(super) const MAX_BYTES: usize = 4096;
/// How deep macros may nest.
pub(super) const MAX_MACRO_DEPTH: usize = 2;
/// How deep expressions may nest: who walks or evaluates one goes down as deep, on whatever stack there is. A level takes
/// up to 41 KiB of it (measured, without optimization), and a thread of the runtime has 2 MiB. Each link of `a + b + …` or
/// `a.b.…` counts; of `&&` and `||`, which are balanced, each doubling.
const MAX_DEPTH: usize = 32;

/// Functions that a filter can call, for "did you mean".
const FUNCTIONS: [&str; 24] = [
    "all",
    "exists",
    "exists_one",
    "filter",
    "map",
    "has",
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "timestamp",
    "duration",
    "lowerAscii",
    "upperAscii",
    "trim",
    "split",
    "replace",
    "substring",
];

/// CEL's own functions and those on strings (`lowerAscii`, `split`, …).
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    env.add_extension(extensions::strings).expect("its functions are not in the standard library");
    Arc::new(env)
});

/// A compiled expression of whatever type.
#[derive(Debug)]
pub(super) struct Expression {
    program: Program,
    uses: Uses,
    /// Where in the body its value lies, where it is nothing but the name of a member: most ids are.
    path: Option<Box<[Box<str>]>>,
}

/// Why an expression has no value for an event.
#[derive(Debug)]
pub(super) struct NoValue {
    pub(super) why: String,
    /// Whether only a member is not there that it asks for.
    pub(super) is_absent: bool,
}

impl Expression {
    /// Checked against the event's shape; `names` are those of lookups. `truth` tells why it must be true or false, where it
    /// must.
    pub(super) fn compile(text: &str, names: &[LookedUp], truth: Option<&str>) -> Result<Self, Vec<Problem>> {
        if text.len() > MAX_BYTES {
            return Err(vec![Problem::new(format!("an expression is at most {MAX_BYTES} bytes long"), 0..0)]);
        }
        let program = ENVIRONMENT.compile(text).map_err(|errors| {
            let problem = |e: &cel::ParseError| Problem::new(syntax_message(&e.msg), place(text, e.pos));
            errors.errors.iter().map(problem).collect::<Vec<_>>()
        })?;
        if deeper_than(MAX_DEPTH, program.expression()) {
            return Err(vec![Problem::new(format!("expressions nest deeper than {MAX_DEPTH}"), 0..text.len())]);
        }
        let mut check =
            Check { program: &program, names, uses: Uses::default(), bound: Vec::new(), problems: Vec::new() };
        check.visit(program.expression());
        if let Some(truth) = truth {
            check.boolean(program.expression(), truth);
        }
        let Check { uses, problems, .. } = check;
        let path = match &program.expression().expr {
            Expr::Select(select) if !select.test => path_of(select),
            _ => None,
        };
        let path = path.map(|(variable, path)| iter::once(variable.name()).chain(path).map(Box::from).collect());
        if problems.is_empty() { Ok(Self { program, uses, path }) } else { Err(problems) }
    }

    /// Its value for an event.
    pub(super) fn evaluate(&self, event: &Recorded) -> Result<Value, NoValue> {
        match self.path.as_deref().and_then(|path| members::plain(&event.body, path)) {
            Some(Plain::Null) => Ok(Value::Null),
            Some(Plain::Int(number)) => Ok(Value::Int(number)),
            Some(Plain::UInt(number)) => Ok(Value::UInt(number)),
            Some(Plain::Text(text)) => Ok(Value::String(text.into())),
            // Another kind of value, none, or one that cannot be read: CEL says what that means.
            None => self.evaluate_in(&View::new(event)),
        }
    }

    fn evaluate_in(&self, view: &View<'_>) -> Result<Value, NoValue> {
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        context.set_variable_resolver(view);
        let result = self.program.execute(&context);
        result.map_err(|error| NoValue {
            why: view.failure().map_or_else(|| execution_message(&error), str::to_owned),
            is_absent: view.failure().is_none() && matches!(error, ExecutionError::NoSuchKey(_)),
        })
    }
}

/// A compiled filter.
#[derive(Debug)]
pub(super) struct Filter(Expression);

impl Filter {
    pub(super) fn compile(text: &str, samples: &[Recorded], names: &[LookedUp]) -> Result<Self, Vec<Problem>> {
        if text.trim().is_empty() {
            return Err(vec![Problem::new("an empty filter; leave it out to take every event", 0..0)]);
        }
        let filter = Self(Expression::compile(text, names, Some("a filter must be true or false"))?);
        for sample in samples {
            if let Ok(result) = filter.0.evaluate(sample)
                && !matches!(result, Value::Bool(_))
            {
                let message = format!(
                    "a filter must be true or false; for a {} event this is {}",
                    sample.event_type,
                    type_of(&result)
                );
                return Err(vec![Problem::new(message, 0..text.len())]);
            }
        }
        Ok(filter)
    }

    pub(super) const fn uses(&self) -> Uses {
        self.0.uses
    }

    /// Whether it refuses the event whatever may be looked up.
    pub(super) fn refuses_before_lookups(&self, event: &Recorded) -> bool {
        matches!(self.0.evaluate_in(&View::before_lookups(event)), Ok(Value::Bool(false)))
    }

    /// Whether the sink takes the event.
    pub(super) fn accepts(&self, event: &Recorded) -> Result<bool, String> {
        match self.0.evaluate(event).map_err(|no_value| no_value.why)? {
            Value::Bool(truth) => Ok(truth),
            other => Err(format!("it gives {} instead of true or false", type_of(&other))),
        }
    }

    /// The event types and resources that the text compares `type` and `resource` with, each with its place.
    pub(super) fn named_types(&self) -> Vec<(NamedType, Range<usize>)> {
        let mut named = Vec::new();
        let program = &self.0.program;
        walk(program.expression(), &mut |expr| {
            let Expr::Call(call) = &expr.expr else { return };
            let operands: Vec<&IdedExpr> = call.target.iter().map(|target| &**target).chain(&call.args).collect();
            let [left, right] = operands[..] else { return };
            let (variable, other) = match (variable_of(left), variable_of(right)) {
                (Some(variable), None) => (variable, right),
                (None, Some(variable)) => (variable, left),
                _ => return,
            };
            let texts: Vec<(&str, &IdedExpr)> = match &other.expr {
                Expr::List(list) => list.elements.iter().filter_map(|e| Some((text_of(e)?, e))).collect(),
                _ => text_of(other).map(|text| (text, other)).into_iter().collect(),
            };
            for (text, at) in texts {
                let name = match (variable, call.func_name.as_str()) {
                    (Variable::Resource, operators::EQUALS | operators::IN) => NamedType::Resource(text.to_owned()),
                    (Variable::Type, operators::EQUALS | operators::IN) => NamedType::Type(text.to_owned()),
                    (Variable::Type, "startsWith") if text.contains('.') => NamedType::Type(text.to_owned()),
                    _ => continue,
                };
                named.push((name, span(program, at)));
            }
        });
        named
    }
}

/// What a filter names of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NamedType {
    Type(String),
    Resource(String),
}

struct Check<'p> {
    program: &'p Program,
    names: &'p [LookedUp],
    uses: Uses,
    /// Variables of the macros around this place.
    bound: Vec<&'p str>,
    problems: Vec<Problem>,
}

impl<'p> Check<'p> {
    fn problem(&mut self, message: impl Into<String>, at: &IdedExpr) {
        self.problems.push(Problem::new(message, span(self.program, at)));
    }

    fn visit(&mut self, expr: &'p IdedExpr) {
        match &expr.expr {
            Expr::Ident(name) => self.name(name, expr),
            Expr::Select(select) => self.select(select, expr),
            Expr::Call(call) => self.call(call, expr),
            Expr::Comprehension(comprehension) => {
                self.visit(&comprehension.iter_range);
                let before = self.bound.len();
                self.bound.push(&comprehension.accu_var);
                self.visit(&comprehension.accu_init);
                self.bound.push(&comprehension.iter_var);
                self.bound.extend(comprehension.iter_var2.as_deref());
                if self.bound.iter().filter(|name| name.starts_with('@')).count() > MAX_MACRO_DEPTH {
                    self.problem(format!("macros nest deeper than {MAX_MACRO_DEPTH}"), expr);
                }
                self.visit(&comprehension.loop_cond);
                self.visit(&comprehension.loop_step);
                self.visit(&comprehension.result);
                self.bound.truncate(before);
            }
            Expr::List(list) => list.elements.iter().for_each(|element| self.visit(element)),
            Expr::Map(map) => map.entries.iter().for_each(|entry| self.entry(entry)),
            Expr::Struct(_) => self.problem("messages of a named type do not exist here", expr),
            Expr::Literal(_) | Expr::Unspecified => {}
        }
    }

    fn entry(&mut self, entry: &'p IdedEntryExpr) {
        match &entry.expr {
            EntryExpr::MapEntry(entry) => {
                self.visit(&entry.key);
                self.visit(&entry.value);
            }
            EntryExpr::StructField(field) => self.visit(&field.value),
        }
    }

    fn name(&mut self, name: &str, at: &IdedExpr) {
        if self.bound.contains(&name)
            || ENVIRONMENT.types().find_type(name).is_some() && Variable::parse(name).is_none()
        {
            return;
        }
        match known_variable(name, self.names) {
            Some(variable) => self.uses.add(variable),
            None => self.problem(unknown_variable(name, self.names), at),
        }
    }

    fn select(&mut self, select: &'p SelectExpr, at: &IdedExpr) {
        self.visit(&select.operand);
        if let Some((Variable::Enrichment, path)) = path_of(select)
            && let Some(message) = unknown_member(&path, self.names)
        {
            self.problem(message, at);
        }
        if let Some(variable) = variable_of(&select.operand).filter(|v| v.is_text() && !self.bound.contains(&v.name()))
        {
            let (name, field) = (variable.name(), &select.field);
            let underscored = format!("{name}_{field}");
            let hint = match Variable::parse(&underscored).or_else(|| Variable::parse(field)) {
                Some(meant) => format!("; did you mean `{}`?", meant.name()),
                None => String::new(),
            };
            self.problem(format!("`{name}` is text and has no member `{field}`{hint}"), at);
        }
    }

    fn call(&mut self, call: &'p CallExpr, at: &IdedExpr) {
        let is_operator = call.func_name.contains('_') && !call.func_name.starts_with(|c: char| c.is_ascii_lowercase());
        let namespace = match call.target.as_deref().map(|target| &target.expr) {
            Some(Expr::Ident(name)) if declared(&format!("{name}.{}", call.func_name), false) => Some(name),
            _ => None,
        };
        if let (Some(target), None) = (&call.target, namespace) {
            self.visit(target);
        }
        call.args.iter().for_each(|argument| self.visit(argument));
        if namespace.is_none()
            && !is_operator
            && !call.func_name.starts_with(['@', '!', '-'])
            && !declared(&call.func_name, call.target.is_some())
        {
            let hint =
                nearest(&call.func_name, FUNCTIONS).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            self.problem(format!("unknown function `{}`{hint}", call.func_name), at);
        }
        match call.func_name.as_str() {
            operators::LOGICAL_AND | operators::LOGICAL_OR | operators::LOGICAL_NOT => {
                call.args.iter().for_each(|operand| self.boolean(operand, "this must be true or false"));
            }
            operators::CONDITIONAL => self.boolean(&call.args[0], "a condition must be true or false"),
            _ => {}
        }
    }

    /// Refuses an expression that is certainly not boolean, as its outermost operator shows.
    fn boolean(&mut self, expr: &'p IdedExpr, message: &str) {
        let is = match &expr.expr {
            Expr::Literal(LiteralValue::Boolean(_)) | Expr::Select(_) | Expr::Unspecified => return,
            Expr::Literal(LiteralValue::String(_)) => "text",
            Expr::Literal(LiteralValue::Bytes(_)) => "bytes",
            Expr::Literal(LiteralValue::Null) => "null",
            Expr::Literal(_) => "a number",
            Expr::List(_) => "a list",
            Expr::Map(_) | Expr::Struct(_) => "an object",
            Expr::Ident(name) if self.bound.contains(&name.as_str()) => return,
            Expr::Ident(name) => match Variable::parse(name) {
                Some(variable) if variable.is_text() => "text",
                Some(Variable::Data | Variable::Previous | Variable::Meta | Variable::Enrichment) => "an object",
                _ => return,
            },
            Expr::Call(call) => match call.func_name.as_str() {
                operators::ADD | operators::SUBSTRACT | operators::MULTIPLY | operators::DIVIDE => "a sum or product",
                operators::MODULO | operators::NEGATE | "size" | "indexOf" | "int" | "uint" | "double" => "a number",
                "string" | "lowerAscii" | "upperAscii" | "trim" | "replace" | "substring" | "join" => "text",
                "timestamp" => "a time",
                "duration" => "a duration",
                "split" => "a list",
                operators::CONDITIONAL => {
                    self.boolean(&call.args[1], message);
                    return self.boolean(&call.args[2], message);
                }
                _ => return,
            },
            Expr::Comprehension(comprehension) => match comprehension.accu_init.expr {
                Expr::List(_) => "a list",
                _ => return,
            },
        };
        self.problem(format!("{message}; this is {is}"), expr);
    }
}

/// A variable, where the sink's events have it.
pub(super) fn known_variable(name: &str, names: &[LookedUp]) -> Option<Variable> {
    Variable::parse(name).filter(|variable| *variable != Variable::Enrichment || !names.is_empty())
}

pub(super) fn unknown_variable(name: &str, names: &[LookedUp]) -> String {
    if name == Variable::Enrichment.name() {
        return "`enrichment` is there only where the sink looks something up first: [[sinks.NAME.enrich]]".to_owned();
    }
    let known: Vec<&str> =
        Variable::ALL.into_iter().map(Variable::name).filter(|name| known_variable(name, names).is_some()).collect();
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("unknown variable `{name}`; did you mean `{near}`?"),
        None => format!("unknown variable `{name}`; known are {}", known.join(", ")),
    }
}

/// Whether a function is known, asked of the interpreter itself: it says "undeclared" of the others.
fn declared(name: &str, as_member: bool) -> bool {
    let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
    context.add_variable_as_val("x", Box::new(CelString::from("")));
    let source = if as_member { format!("x.{name}()") } else { format!("{name}()") };
    let Ok(probe) = ENVIRONMENT.compile(&source) else { return true };
    !matches!(probe.execute(&context), Err(ExecutionError::UndeclaredReference(_)))
}

/// Whether there is an expression below so many others.
fn deeper_than(levels: usize, expr: &IdedExpr) -> bool {
    let Some(left) = levels.checked_sub(1) else { return true };
    let deeper = |expr: &IdedExpr| deeper_than(left, expr);
    match &expr.expr {
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).any(deeper),
        Expr::Comprehension(comprehension) => [
            &comprehension.iter_range,
            &comprehension.accu_init,
            &comprehension.loop_cond,
            &comprehension.loop_step,
            &comprehension.result,
        ]
        .into_iter()
        .any(deeper),
        Expr::List(list) => list.elements.iter().any(deeper),
        Expr::Map(map) => map.entries.iter().any(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => deeper(&entry.key) || deeper(&entry.value),
            EntryExpr::StructField(field) => deeper(&field.value),
        }),
        Expr::Select(select) => deeper(&select.operand),
        Expr::Ident(_) | Expr::Literal(_) | Expr::Struct(_) | Expr::Unspecified => false,
    }
}

fn walk<'p>(expr: &'p IdedExpr, see: &mut impl FnMut(&'p IdedExpr)) {
    see(expr);
    match &expr.expr {
        Expr::Call(call) => {
            if let Some(target) = &call.target {
                walk(target, see);
            }
            call.args.iter().for_each(|argument| walk(argument, see));
        }
        Expr::Comprehension(comprehension) => {
            walk(&comprehension.iter_range, see);
            walk(&comprehension.loop_step, see);
        }
        Expr::List(list) => list.elements.iter().for_each(|element| walk(element, see)),
        Expr::Select(select) => walk(&select.operand, see),
        Expr::Ident(_) | Expr::Literal(_) | Expr::Map(_) | Expr::Struct(_) | Expr::Unspecified => {}
    }
}

/// A variable, and the members that are named one below the other from it on.
fn path_of(select: &SelectExpr) -> Option<(Variable, Vec<&str>)> {
    let (variable, mut path) = match &select.operand.expr {
        Expr::Select(above) if !above.test => path_of(above)?,
        _ => (variable_of(&select.operand)?, Vec::new()),
    };
    path.push(&select.field);
    Some((variable, path))
}

fn variable_of(expr: &IdedExpr) -> Option<Variable> {
    match &expr.expr {
        Expr::Ident(name) => Variable::parse(name),
        _ => None,
    }
}

fn text_of(expr: &IdedExpr) -> Option<&str> {
    match &expr.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

pub(super) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Bool(_) => "a boolean",
        Value::String(_) => "text",
        Value::Int(_) | Value::UInt(_) | Value::Float(_) => "a number",
        Value::List(_) => "a list",
        Value::Map(_) => "an object",
        Value::Null => "null",
        _ => "something else",
    }
}

fn execution_message(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => format!("the event has no `{key}` there"),
        other => other.to_string(),
    }
}

/// The bytes of the text that an expression was read from.
fn span(program: &Program, expr: &IdedExpr) -> Range<usize> {
    let source = &program.source_info().source;
    match program.source_info().offset_for(expr.id) {
        Some((start, stop)) => start as usize..(stop as usize + 1).min(source.len()),
        None => 0..source.len(),
    }
}

/// The parser's line (from 1) and column as a range of bytes.
fn place(text: &str, (line, column): (isize, isize)) -> Range<usize> {
    let (line, column) = (usize::try_from(line).unwrap_or(1).max(1), usize::try_from(column).unwrap_or(1).max(1));
    let start: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
    let at = text[start.min(text.len())..].char_indices().nth(column - 1).map_or(text.len(), |(at, _)| start + at);
    at..at + 1
}

fn syntax_message(message: &str) -> String {
    format!("not a CEL expression: {}", message.trim_start_matches("Syntax error: "))
}
