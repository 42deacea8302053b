//! The environment in which `transformers` renders chat templates.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use minijinja::{
    Environment, Error, ErrorKind, State, Value,
    syntax::SyntaxConfig,
    value::{Kwargs, Object, Rest, Tuple, ValueKind, ValueOrKwargs},
};

use super::{
    MAX_STEPS,
    comparisons::{self, ALL_COMPARED, COMPARED, SOUGHT},
    filters,
    iterators::{self, no_generator},
    limits, methods, printf,
    python::{self, as_float, bind, refused},
    source::{CALL_VARIADIC, CONCAT, KEEP, REMAINDER},
    strftime::strftime,
};

/// Characters that are shown of what a template complains of.
const LONGEST_COMPLAINT: usize = 2000;

/// Jinja's environment with the additions of `transformers`.
pub(super) fn environment() -> Result<Environment<'static>, String> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|error| format!("chat template: {error}"))?);
    environment.set_unknown_method_callback(methods::call);
    environment.set_fuel(Some(MAX_STEPS));
    environment.set_formatter(|output, _, value| {
        no_generator(value)?;
        let text = value.as_str().map_or_else(|| Cow::Owned(python::text(value)), Cow::Borrowed);
        limits::check_written(text.len())?;
        output.write_str(&text).map_err(Error::from)
    });
    environment.remove_global("debug");
    filters::register(&mut environment);
    iterators::register(&mut environment);
    comparisons::register(&mut environment);
    environment.add_function("raise_exception", |message: &Value| -> Result<Value, Error> {
        let message = python::text(message);
        Err(refused(message.chars().take(LONGEST_COMPLAINT).collect::<String>()))
    });
    environment.add_function("strftime_now", |format: &str| strftime(format).map_err(refused));
    environment.add_function("cycler", |items: Rest<Value>| Value::from_object(Cycler::new(items.to_vec())));
    environment.add_function("joiner", |args: Rest<ValueOrKwargs>| {
        let [separator] = bind(&args.into_values(), ["sep"])?;
        let separator = separator.map_or_else(|| ", ".to_owned(), |separator| python::text(&separator));
        Ok::<_, Error>(Value::from_object(Joiner { separator, calls: AtomicUsize::new(0) }))
    });
    environment.add_function(CONCAT, |values: Rest<Value>| {
        values.iter().try_for_each(no_generator)?;
        let mut written = String::new();
        values.iter().try_for_each(|value| limits::push(&mut written, &python::text(value)))?;
        Ok::<_, Error>(written)
    });
    environment.add_function(KEEP, |state: &mut State, value: &Value, levels: u64| limits::keep(state, value, levels));
    environment.add_function(COMPARED, |state: &mut State, value: &Value| {
        limits::compared(state, value).map(|()| value.clone())
    });
    environment.add_function(ALL_COMPARED, |state: &mut State, values: Rest<Value>| {
        values.iter().try_for_each(|value| limits::compared(state, value))?;
        Ok::<_, Error>(Value::from(Tuple::from(values.to_vec())))
    });
    environment.add_function(SOUGHT, |value: &Value| limits::sought(value).map(|()| value.clone()));
    environment.add_function(REMAINDER, |state: &mut State, left: &Value, right: &Value| remainder(state, left, right));
    environment.add_function(
        CALL_VARIADIC,
        |state: &mut State, called: &Value, parameters: Vec<String>, args: Rest<ValueOrKwargs>| {
            call_variadic(state, called, &parameters, args.into_values())
        },
    );
    Ok(environment)
}

/// Python's `%`: of a string, formatting; of numbers, what a division rounded down leaves.
fn remainder(state: &State, left: &Value, right: &Value) -> Result<Value, Error> {
    if let Some(format) = left.as_str() {
        return printf::format(state, format, right);
    }
    let is_number = |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool);
    if !is_number(left) || !is_number(right) {
        return Err(refused(format!("found {} % {}, expected numbers, or a string first", left.kind(), right.kind())));
    }
    let number = |value: &Value| match value.kind() {
        ValueKind::Bool => Value::from(i64::from(value.is_true())),
        _ => value.clone(),
    };
    let (left, right) = (number(left), number(right));
    if as_float(&left).is_some() || as_float(&right).is_some() {
        let (left, right) = (f64::try_from(left)?, f64::try_from(right)?);
        if right == 0.0 {
            return Err(refused("float modulo by zero"));
        }
        let rest = left % right;
        let rest = if rest != 0.0 && (rest < 0.0) != (right < 0.0) { rest + right } else { rest };
        return Ok(Value::from(if rest == 0.0 { 0.0_f64.copysign(right) } else { rest }));
    }
    let (left, right) = (i128::try_from(left)?, i128::try_from(right)?);
    let rest = left.checked_rem(right).ok_or_else(|| refused("integer modulo by zero"))?;
    let rest = if rest != 0 && (rest < 0) != (right < 0) { rest + right } else { rest };
    Ok(i64::try_from(rest).map_or_else(|_| Value::from(rest), Value::from))
}

/// Calls a macro that reads `varargs` or `kwargs`, which it has as its last two parameters.
fn call_variadic(
    state: &mut State,
    called: &Value,
    parameters: &[String],
    mut args: Vec<Value>,
) -> Result<Value, Error> {
    let kwargs = match args.pop() {
        Some(last) if last.is_kwargs() => Some(Kwargs::try_from(last)?),
        last => {
            args.extend(last);
            None
        }
    };
    let more = args.split_off(args.len().min(parameters.len()));
    let (mut known, mut others) = (Vec::new(), Vec::new());
    if let Some(kwargs) = &kwargs {
        for name in kwargs.args() {
            let value: Value = kwargs.get(name)?;
            if name == "caller" || parameters.iter().any(|parameter| parameter == name) {
                known.push((name.to_owned(), value));
            } else {
                others.push((name.to_owned(), value));
            }
        }
    }
    known.push(("varargs".to_owned(), Value::from(Tuple::from(more))));
    known.push(("kwargs".to_owned(), Value::from_pairs(others)));
    args.push(known.into_iter().collect::<Kwargs>().into());
    called.call(state, &args)
}

/// Jinja's `cycler`: one item after the other, and again.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    place: AtomicUsize,
}

impl Cycler {
    fn new(items: Vec<Value>) -> Self {
        Self { items, place: AtomicUsize::new(0) }
    }

    fn current(&self) -> Value {
        let place = self.place.load(Ordering::Relaxed);
        self.items.get(place % self.items.len().max(1)).cloned().unwrap_or_default()
    }
}

impl Object for Cycler {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        (key.as_str() == Some("current")).then(|| self.current())
    }

    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, method: &str, _: &[Value]) -> Result<Value, Error> {
        match method {
            "next" => {
                let current = self.current();
                self.place.fetch_add(1, Ordering::Relaxed);
                Ok(current)
            }
            "reset" => {
                self.place.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

/// Jinja's `joiner`: nothing at the first call, the separator at each later one.
#[derive(Debug)]
struct Joiner {
    separator: String,
    calls: AtomicUsize,
}

impl Object for Joiner {
    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, _: &[Value]) -> Result<Value, Error> {
        let first = self.calls.fetch_add(1, Ordering::Relaxed) == 0;
        Ok(Value::from(if first { "" } else { self.separator.as_str() }))
    }
}
