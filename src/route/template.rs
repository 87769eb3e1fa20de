//! minijinja templates for topic, key and headers: compiled, checked against the event's shape, rendered.
//!
//! A template that is only text and variables of the ledger's row (`sell.{{ resource }}`) is rendered by joining
//! strings; everything else by the engine, with strict undefined values and a bound on its work (fuel).

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use minijinja::machinery::ast::{self, CallArg, Expr, Stmt};
use minijinja::machinery::{Span, parse};
use minijinja::value::Object;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value};

use super::error::Problem;
use super::filter::{known_variable, unknown_variable};
use super::looked_up::{LookedUp, unknown_member};
use super::shape::{Uses, Variable};
use super::view::View;
use crate::event::Recorded;

/// Longest template, in bytes.
const MAX_BYTES: usize = 4096;
/// The engine's bound on one rendering: about this many instructions, and 64 bytes of output for each.
const FUEL: u64 = 20_000;

/// A compiled template.
#[derive(Debug)]
pub(super) struct Template {
    plan: Plan,
    uses: Uses,
}

#[derive(Debug)]
enum Plan {
    Pieces(Vec<Piece>),
    Engine(Box<Environment<'static>>),
}

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    Variable(Variable),
}

const NAME: &str = "rule";

impl Template {
    /// `names` are those of lookups.
    pub(super) fn compile(text: &str, names: &[LookedUp]) -> Result<Self, Vec<Problem>> {
        if text.len() > MAX_BYTES {
            return Err(vec![Problem::new(format!("a template is at most {MAX_BYTES} bytes long"), 0..0)]);
        }
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment.set_debug(true);
        let whole = 0..text.len();
        let syntax = |error: &minijinja::Error| {
            let detail = error.detail().unwrap_or("it ends too early");
            vec![Problem::new(format!("not a template: {detail}"), error.range().unwrap_or(whole.clone()))]
        };
        environment.add_template_owned(NAME, text.to_owned()).map_err(|error| syntax(&error))?;
        let tree = parse(text, NAME, environment.syntax().clone()).map_err(|error| syntax(&error))?;
        let template = environment.get_template(NAME).map_err(|error| syntax(&error))?;

        let globals: BTreeSet<String> = environment.globals().map(|(name, _)| name.to_owned()).collect();
        let undeclared: BTreeSet<String> = template.undeclared_variables(false).into_iter().collect();
        let mut check = Check { text, names, undeclared: &undeclared, globals: &globals, problems: Vec::new() };
        statement(&tree, &mut |expr| check.visit(expr));
        if !check.problems.is_empty() {
            return Err(check.problems);
        }
        let mut uses = Uses::default();
        undeclared.iter().filter_map(|name| Variable::parse(name)).for_each(|variable| uses.add(variable));
        let plan = match pieces(&tree) {
            Some(pieces) => Plan::Pieces(pieces),
            None => Plan::Engine(Box::new(environment)),
        };
        Ok(Self { plan, uses })
    }

    pub(super) const fn uses(&self) -> Uses {
        self.uses
    }

    /// Renders the template for one event.
    pub(super) fn render(&self, event: &Recorded) -> Result<String, RenderError> {
        match &self.plan {
            Plan::Pieces(pieces) => {
                let mut text = String::with_capacity(64);
                for piece in pieces {
                    text.push_str(match piece {
                        Piece::Text(text) => text,
                        Piece::Variable(variable) => variable.of_row(event).unwrap_or_default(),
                    });
                }
                Ok(text)
            }
            Plan::Engine(environment) => self.by_engine(environment, event, |_, value| value),
        }
    }

    /// Renders the template for a sample event; none where the outcome hangs on a field that a real record may have
    /// and the sample does not.
    pub(super) fn try_on(&self, sample: &Recorded) -> Result<Option<String>, RenderError> {
        let Plan::Engine(environment) = &self.plan else { return self.render(sample).map(Some) };
        let guessed = Arc::new(AtomicBool::new(false));
        let rendered = self.by_engine(environment, sample, |variable, value| match variable {
            Variable::Data => {
                let resource = sample.event_type.resource();
                let record = value.get_attr(resource).unwrap_or_default();
                Value::from_pairs([(resource, AnyRecord::of(record, &guessed))])
            }
            Variable::Previous | Variable::Meta | Variable::Enrichment => AnyRecord::of(value, &guessed),
            _ => value,
        });
        if guessed.load(Ordering::Relaxed) { Ok(None) } else { rendered.map(Some) }
    }

    fn by_engine(
        &self,
        environment: &Environment<'static>,
        event: &Recorded,
        seen_as: impl Fn(Variable, Value) -> Value,
    ) -> Result<String, RenderError> {
        let view = View::new(event);
        let mut values = Vec::new();
        for variable in self.uses.iter() {
            let value = view.template_value(variable).map_err(RenderError::body)?;
            // An undefined value is left out: a variable that is set to it would not count as undefined.
            if !value.is_undefined() {
                values.push((variable.name(), seen_as(variable, value)));
            }
        }
        let template = environment.get_template(NAME).map_err(|error| RenderError::engine(&error))?;
        template.render(Value::from_pairs(values)).map_err(|error| RenderError::engine(&error))
    }
}

/// A sample record that has every field: one that the sample does not have is noted as a guess.
#[derive(Debug)]
struct AnyRecord {
    known: Value,
    guessed: Arc<AtomicBool>,
}

impl AnyRecord {
    fn of(known: Value, guessed: &Arc<AtomicBool>) -> Value {
        Value::from_object(Self { known, guessed: Arc::clone(guessed) })
    }
}

impl Object for AnyRecord {
    fn get_value(self: &Arc<Self>, name: &Value) -> Option<Value> {
        let known = self.known.get_item(name).unwrap_or_default();
        if known.is_undefined() {
            self.guessed.store(true, Ordering::Relaxed);
            return Some(Self::of(Value::UNDEFINED, &self.guessed));
        }
        Some(known)
    }
}

/// Why a template could not be rendered for an event.
#[derive(Debug)]
pub(super) struct RenderError {
    pub(super) message: String,
    /// The part of the template that failed, in bytes.
    pub(super) at: Option<std::ops::Range<usize>>,
}

impl RenderError {
    fn body(message: String) -> Self {
        Self { message, at: None }
    }

    fn engine(error: &minijinja::Error) -> Self {
        let message = match error.kind() {
            ErrorKind::OutOfFuel => "it takes too long".to_owned(),
            ErrorKind::UndefinedError => {
                let place = error.template_source().zip(error.range());
                match place.and_then(|(source, range)| source.get(whole_path(source, range))) {
                    Some(place) => format!("`{place}` is undefined"),
                    None => error.to_string(),
                }
            }
            kind => error.detail().map_or_else(|| kind.to_string(), str::to_owned),
        };
        let at = error.range().map(|range| whole_path(error.template_source().unwrap_or_default(), range));
        Self { message, at }
    }
}

/// The template as plain pieces, where it is that simple.
fn pieces(tree: &Stmt<'_>) -> Option<Vec<Piece>> {
    let Stmt::Template(template) = tree else { return None };
    template
        .children
        .iter()
        .map(|child| match child {
            Stmt::EmitRaw(raw) => Some(Piece::Text(raw.raw.into())),
            Stmt::EmitExpr(emit) => match &emit.expr {
                Expr::Var(name) => Variable::parse(name.id).filter(|v| in_row(*v)).map(Piece::Variable),
                _ => None,
            },
            _ => None,
        })
        .collect()
}

const fn in_row(variable: Variable) -> bool {
    matches!(
        variable,
        Variable::Id | Variable::Type | Variable::Account | Variable::Resource | Variable::Action | Variable::RecordId
    )
}

struct Check<'c> {
    text: &'c str,
    names: &'c [LookedUp],
    undeclared: &'c BTreeSet<String>,
    globals: &'c BTreeSet<String>,
    problems: Vec<Problem>,
}

impl Check<'_> {
    fn visit(&mut self, expr: &Expr<'_>) {
        let at = range(expr.span());
        match expr {
            Expr::Var(name) => {
                let known = known_variable(name.id, self.names).is_some() || self.globals.contains(name.id);
                if !known && self.undeclared.contains(name.id) {
                    self.problems.push(Problem::new(unknown_variable(name.id, self.names), at));
                }
            }
            Expr::GetAttr(member) => {
                if self.undeclared.contains(Variable::Enrichment.name())
                    && let Some(path) = below_enrichment(expr)
                    && let Some(message) = unknown_member(&path, self.names)
                {
                    self.problems.push(Problem::new(message, whole_path(self.text, at.clone())));
                }
                let Expr::Var(name) = &member.expr else { return };
                let text = Variable::parse(name.id).is_some_and(Variable::is_text);
                if text && self.undeclared.contains(name.id) {
                    let message = format!("`{}` is text and has no member `{}`", name.id, member.name);
                    self.problems.push(Problem::new(message, whole_path(self.text, at)));
                }
            }
            Expr::Filter(filter) if unknown(&format!("''|{}", filter.name)) == Some(ErrorKind::UnknownFilter) => {
                self.problems
                    .push(Problem::new(format!("unknown filter `{}`", filter.name), self.word(filter.name, at)));
            }
            Expr::Test(test) if unknown(&format!("'' is {}", test.name)) == Some(ErrorKind::UnknownTest) => {
                self.problems.push(Problem::new(format!("unknown test `{}`", test.name), self.word(test.name, at)));
            }
            _ => {}
        }
    }

    /// Narrows a range to a word that stands in it.
    fn word(&self, word: &str, within: std::ops::Range<usize>) -> std::ops::Range<usize> {
        match self.text.get(within.clone()).and_then(|text| text.rfind(word)) {
            Some(offset) => within.start + offset..within.start + offset + word.len(),
            None => within,
        }
    }
}

/// The members that are named one below the other from `enrichment` on.
fn below_enrichment<'e>(expr: &Expr<'e>) -> Option<Vec<&'e str>> {
    match expr {
        Expr::Var(name) if name.id == Variable::Enrichment.name() => Some(Vec::new()),
        Expr::GetAttr(member) => {
            let mut path = below_enrichment(&member.expr)?;
            path.push(member.name);
            Some(path)
        }
        _ => None,
    }
}

/// What the engine says of an expression: the way to learn which filters and tests it has.
fn unknown(expression: &str) -> Option<ErrorKind> {
    let environment = Environment::new();
    let result = environment.compile_expression(expression).and_then(|expression| expression.eval(()));
    result.err().map(|error| error.kind())
}

/// The engine's range of `data.deal.name` begins at a dot: widens it to the whole path.
fn whole_path(source: &str, range: std::ops::Range<usize>) -> std::ops::Range<usize> {
    let Some(before) = source.get(..range.start) else { return range };
    let of_path = |c: char| c.is_alphanumeric() || "_.[]'\"".contains(c);
    before.trim_end_matches(of_path).len()..range.end
}

fn range(span: Span) -> std::ops::Range<usize> {
    span.start_offset as usize..span.end_offset as usize
}

fn statements(body: &[Stmt<'_>], see: &mut impl FnMut(&Expr<'_>)) {
    for child in body {
        statement(child, see);
    }
}

fn statement(node: &Stmt<'_>, see: &mut impl FnMut(&Expr<'_>)) {
    match node {
        Stmt::Template(template) => statements(&template.children, see),
        Stmt::EmitExpr(emit) => expression(&emit.expr, see),
        Stmt::EmitRaw(_) => {}
        Stmt::ForLoop(each) => {
            expression(&each.iter, see);
            each.filter_expr.iter().for_each(|filter| expression(filter, see));
            statements(&each.body, see);
            statements(&each.else_body, see);
        }
        Stmt::IfCond(condition) => {
            expression(&condition.expr, see);
            statements(&condition.true_body, see);
            statements(&condition.false_body, see);
        }
        Stmt::WithBlock(with) => {
            with.assignments.iter().for_each(|(_, value)| expression(value, see));
            statements(&with.body, see);
        }
        Stmt::Set(set) => expression(&set.expr, see),
        Stmt::SetBlock(set) => {
            set.filter.iter().for_each(|filter| expression(filter, see));
            statements(&set.body, see);
        }
        Stmt::AutoEscape(escape) => statements(&escape.body, see),
        Stmt::FilterBlock(block) => {
            expression(&block.filter, see);
            statements(&block.body, see);
        }
        Stmt::Do(call) => calls(&call.call, see),
    }
}

fn expression(node: &Expr<'_>, see: &mut impl FnMut(&Expr<'_>)) {
    see(node);
    let arguments = |arguments: &[CallArg<'_>], see: &mut _| arguments.iter().for_each(|a| argument(a, see));
    match node {
        Expr::Var(_) | Expr::Const(_) => {}
        Expr::Slice(slice) => {
            expression(&slice.expr, see);
            [&slice.start, &slice.stop, &slice.step].into_iter().flatten().for_each(|part| expression(part, see));
        }
        Expr::UnaryOp(unary) => expression(&unary.expr, see),
        Expr::BinOp(binary) => {
            expression(&binary.left, see);
            expression(&binary.right, see);
        }
        Expr::Compare(compare) => {
            expression(&compare.expr, see);
            compare.ops.iter().for_each(|op| expression(&op.expr, see));
        }
        Expr::IfExpr(choice) => {
            expression(&choice.test_expr, see);
            expression(&choice.true_expr, see);
            choice.false_expr.iter().for_each(|other| expression(other, see));
        }
        Expr::Filter(filter) => {
            filter.expr.iter().for_each(|inner| expression(inner, see));
            arguments(&filter.args, see);
        }
        Expr::Test(test) => {
            expression(&test.expr, see);
            arguments(&test.args, see);
        }
        Expr::GetAttr(member) => expression(&member.expr, see),
        Expr::GetItem(item) => {
            expression(&item.expr, see);
            expression(&item.subscript_expr, see);
        }
        Expr::Call(call) => calls(call, see),
        Expr::List(list) => list.items.iter().for_each(|item| expression(item, see)),
        Expr::Tuple(tuple) => tuple.items.iter().for_each(|item| expression(item, see)),
        Expr::Map(map) => map.keys.iter().chain(&map.values).for_each(|part| expression(part, see)),
    }
}

fn calls(call: &ast::Call<'_>, see: &mut impl FnMut(&Expr<'_>)) {
    expression(&call.expr, see);
    call.args.iter().for_each(|a| argument(a, see));
}

fn argument(node: &CallArg<'_>, see: &mut impl FnMut(&Expr<'_>)) {
    match node {
        CallArg::Pos(value) | CallArg::Kwarg(_, value) | CallArg::PosSplat(value) | CallArg::KwargSplat(value) => {
            expression(value, see);
        }
    }
}

/// Only what may stand in a Kafka topic's name.
pub(super) fn topic_problem(topic: &str) -> Option<Cow<'static, str>> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    match topic {
        "" => Some("the topic is empty".into()),
        "." | ".." => Some("a topic cannot be named `.` or `..`".into()),
        _ if topic.len() > 249 => Some("a topic's name is at most 249 bytes long".into()),
        _ if !topic.bytes().all(legal) => Some(
            format!("`{}` is not a legal topic name: letters, digits, `.`, `_` and `-`", topic.escape_debug()).into(),
        ),
        _ => None,
    }
}
