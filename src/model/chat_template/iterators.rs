//! What Python iterates over and is no list: generators and the views of dictionaries.

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use minijinja::{
    Environment, Error, State, Value, filters,
    value::{Enumerator, Kwargs, Object, ObjectRepr, Rest, ValueOrKwargs},
};

use super::{
    limits,
    python::{refused, repr},
};

/// A generator: true even where it yields nothing, and empty once somebody has gone through it.
#[derive(Debug)]
pub(super) struct Generator {
    elements: Mutex<Vec<Value>>,
}

impl Generator {
    fn elements(&self) -> MutexGuard<'_, Vec<Value>> {
        self.elements.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(std::mem::take(&mut *self.elements()))
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.elements().len())
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<generator object>")
    }
}

/// Whether a value is a generator or a view: neither has places.
pub(super) fn is_placeless(value: &Value) -> bool {
    value.downcast_object_ref::<Generator>().is_some() || value.downcast_object_ref::<View>().is_some()
}

/// The elements of a generator or a view, which a generator keeps.
pub(super) fn elements(value: &Value) -> Option<Vec<Value>> {
    let generator = value.downcast_object_ref::<Generator>().map(|generator| generator.elements().clone());
    generator.or_else(|| value.downcast_object_ref::<View>().map(|view| view.elements.clone()))
}

/// Refuses generators.
pub(super) fn no_generator(value: &Value) -> Result<(), Error> {
    if value.downcast_object_ref::<Generator>().is_none() {
        return Ok(());
    }
    Err(refused("found a generator, which has neither text nor length; put | list behind the filter"))
}

fn generator(elements: &Value) -> Result<Value, Error> {
    let elements = Mutex::new(elements.try_iter()?.collect());
    Ok(Value::from_object(Generator { elements }))
}

/// Has the filters that are generators in Jinja return generators.
pub(super) fn register(environment: &mut Environment) {
    type Args = Rest<ValueOrKwargs>;
    environment.add_filter("map", |state: &mut State, value: Value, args: Args| {
        generator(&Value::from(filters::map(state, value, args)?))
    });
    environment.add_filter("select", |state: &mut State, value: Value, test: Option<Cow<'_, str>>, args: Args| {
        generator(&Value::from(filters::select(state, value, test, args)?))
    });
    environment.add_filter("reject", |state: &mut State, value: Value, test: Option<Cow<'_, str>>, args: Args| {
        generator(&Value::from(filters::reject(state, value, test, args)?))
    });
    environment.add_filter("selectattr", selectattr);
    environment.add_filter("rejectattr", rejectattr);
    environment.add_filter("unique", |state: &mut State, values: Value, kwargs: Kwargs| {
        limits::compared(state, &values)?;
        generator(&filters::unique(state, values, kwargs)?)
    });
    environment.add_filter("batch", |state: &mut State, value: Value, count: usize, fill: Option<Value>| {
        generator(&filters::batch(state, value, count, fill)?)
    });
    environment.add_filter("slice", |state: &mut State, value: Value, count: usize, fill: Option<Value>| {
        generator(&filters::slice(state, value, count, fill)?)
    });
    environment.add_filter("items", |value: &Value| generator(&filters::items(value)?));
    environment.add_filter("reverse", |value: &Value| {
        let reversed = filters::reverse(value)?;
        if value.as_str().is_some() { Ok(reversed) } else { generator(&reversed) }
    });
    for name in ["length", "count"] {
        environment.add_filter(name, |value: &Value| {
            no_generator(value)?;
            filters::length(value)
        });
    }
}

fn selectattr(
    state: &mut State,
    value: Value,
    attribute: Cow<'_, str>,
    test: Option<Cow<'_, str>>,
    args: Rest<ValueOrKwargs>,
) -> Result<Value, Error> {
    generator(&Value::from(filters::selectattr(state, value, attribute, test, args)?))
}

fn rejectattr(
    state: &mut State,
    value: Value,
    attribute: Cow<'_, str>,
    test: Option<Cow<'_, str>>,
    args: Rest<ValueOrKwargs>,
) -> Result<Value, Error> {
    generator(&Value::from(filters::rejectattr(state, value, attribute, test, args)?))
}

/// `dict.keys()` and its sisters.
#[derive(Debug)]
pub(super) struct View {
    name: &'static str,
    elements: Vec<Value>,
}

impl View {
    pub(super) fn value(name: &'static str, elements: Vec<Value>) -> Value {
        Value::from_object(Self { name, elements })
    }
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.elements.clone())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.elements.len())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let elements: Vec<_> = self.elements.iter().map(repr).collect();
        write!(f, "dict_{}([{}])", self.name, elements.join(", "))
    }
}
