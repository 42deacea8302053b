//! Word problems whose answers are computed, so that they are right.

use super::Family;

/// Their topic.
pub(super) const TOPIC: &str = "arithmetic";

/// Shopping, distances, sharing, percentages, change and areas.
pub(super) fn families() -> Vec<Family> {
    vec![shopping(), distance(), sharing(), percentage(), change(), area()]
}

fn family(prompts: [&str; 3], responses: [&str; 3], fillers: Vec<Vec<String>>) -> Family {
    Family { topic: TOPIC.to_owned(), prompts: owned(&prompts), responses: owned(&responses), fillers }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn shopping() -> Family {
    let items = [
        ("notebooks", 6, 4),
        ("apples", 9, 2),
        ("tickets", 5, 12),
        ("candles", 8, 3),
        ("mugs", 7, 6),
        ("plants", 4, 15),
        ("batteries", 12, 3),
        ("posters", 3, 14),
    ];
    let fillers = items.map(|(item, count, price)| {
        vec![item.to_owned(), count.to_string(), price.to_string(), (count * price).to_string()]
    });
    family(
        [
            "I buy {1} {0} at {2} dollars each. What do I pay?",
            "How much do {1} {0} cost if one costs {2} dollars?",
            "Work out the price: {1} {0}, {2} dollars apiece.",
        ],
        [
            "Multiply the number by the price: {1} times {2} is {3}, so the {0} cost {3} dollars.",
            "You pay {3} dollars in total, because {1} {0} at {2} dollars each make {1} × {2} = {3}.",
            "{1} × {2} = {3}. The bill for the {0} therefore comes to {3} dollars.",
        ],
        fillers.into(),
    )
}

fn distance() -> Family {
    let trips = [
        ("train", 120, 3),
        ("car", 80, 2),
        ("cyclist", 18, 4),
        ("bus", 60, 5),
        ("hiker", 4, 6),
        ("ferry", 35, 2),
        ("tram", 25, 2),
        ("runner", 11, 2),
    ];
    let fillers = trips.map(|(who, speed, hours)| {
        vec![who.to_owned(), speed.to_string(), hours.to_string(), (speed * hours).to_string()]
    });
    family(
        [
            "A {0} moves at {1} kilometres per hour for {2} hours. How far does it get?",
            "How many kilometres does a {0} cover in {2} hours at {1} km/h?",
            "Find the distance: {0}, {1} km/h, {2} hours.",
        ],
        [
            "Distance equals speed times time. With {1} × {2} = {3}, the {0} covers {3} kilometres.",
            "The {0} gets {3} kilometres far: {1} kilometres in each hour, for {2} hours.",
            "In one hour it is {1} kilometres, so in {2} hours the {0} covers {3} kilometres.",
        ],
        fillers.into(),
    )
}

fn sharing() -> Family {
    let shares = [
        ("sweets", "children", 26, 4),
        ("stickers", "friends", 50, 6),
        ("pencils", "pupils", 40, 7),
        ("biscuits", "guests", 29, 5),
        ("marbles", "cousins", 44, 3),
        ("cards", "players", 52, 5),
        ("oranges", "neighbours", 23, 4),
        ("tulips", "vases", 34, 8),
    ];
    let fillers = shares.map(|(item, who, total, parts)| {
        vec![
            item.to_owned(),
            who.to_owned(),
            total.to_string(),
            parts.to_string(),
            (total / parts).to_string(),
            (total % parts).to_string(),
        ]
    });
    family(
        [
            "{2} {0} are divided equally among {3} {1}. How many each, and what is left over?",
            "How do I divide {2} {0} fairly between {3} {1}?",
            "What is {2} divided by {3}? It's about {0} for {1}.",
        ],
        [
            "Each of the {3} {1} gets {4} {0}, and there is a remainder of {5}.",
            "{2} divided by {3} is {4}, remainder {5}. So it is {4} {0} each, with {5} left over.",
            "Give {4} {0} to each of the {1}. That uses {3} × {4} of the {2}, and {5} will be left.",
        ],
        fillers.into(),
    )
}

fn percentage() -> Family {
    let parts = [(10, 250), (25, 80), (50, 146), (20, 65), (5, 300), (75, 40), (15, 60), (30, 90)];
    let fillers = parts.map(|(percent, whole)| {
        let part = percent * whole;
        vec![percent.to_string(), whole.to_string(), (part / 100).to_string(), part.to_string()]
    });
    family(
        [
            "What is {0} percent of {1}?",
            "Calculate {0}% of {1}, please.",
            "I need {0} percent of {1}. How do I get there?",
        ],
        [
            "Multiply {1} by {0} and divide by 100: {3} divided by 100 is {2}, and that is the answer.",
            "The answer is {2}. One percent of {1} is one hundredth of it, and you take that {0} times.",
            "{0}% of {1} is {2}. To check it, {1} × {0} = {3}, then move the decimal point two places.",
        ],
        fillers.into(),
    )
}

fn change() -> Family {
    let purchases = [
        ("a book", 20, 13),
        ("a lamp", 50, 34),
        ("lunch", 20, 11),
        ("a scarf", 50, 27),
        ("a bouquet", 20, 16),
        ("a toy train", 50, 38),
        ("a haircut", 50, 22),
        ("a chess set", 100, 64),
    ];
    let fillers = purchases.map(|(item, note, price)| {
        vec![item.to_owned(), note.to_string(), price.to_string(), (note - price).to_string()]
    });
    family(
        [
            "I pay for {0} that costs {2} dollars with {1} dollars. What change do I get?",
            "If {0} costs {2} dollars and I hand over {1}, how much comes back?",
            "{1} dollars minus {2} dollars for {0}: what remains?",
        ],
        [
            "You get {3} dollars back. Subtract the price from what you paid: {1} − {2} = {3}.",
            "Count up from {2} to {1}. That takes {3} more, so your change is {3} dollars.",
            "{1} − {2} = {3}, so after paying for {0} you still have {3} dollars.",
        ],
        fillers.into(),
    )
}

fn area() -> Family {
    let places = [
        ("room", 5, 4),
        ("garden", 12, 9),
        ("carpet", 3, 2),
        ("playground", 25, 16),
        ("balcony", 6, 2),
        ("wall", 8, 3),
        ("field", 40, 30),
        ("terrace", 7, 5),
    ];
    let fillers = places.map(|(place, length, width)| {
        let (area, perimeter) = (length * width, 2 * (length + width));
        vec![place.to_owned(), length.to_string(), width.to_string(), area.to_string(), perimeter.to_string()]
    });
    family(
        [
            "What are the area and the perimeter of a {0} of {1} by {2} metres?",
            "My {0} is {1} metres long and {2} metres wide. How big is it, and how long is its edge?",
            "Rectangular {0}, {1} m by {2} m: area and perimeter?",
        ],
        [
            "The area is {1} × {2} = {3} square metres. All four sides together measure {4} metres.",
            "It covers {3} square metres, since length times width is {1} × {2}. The edge is {4} metres long.",
            "Multiply the sides for the area: {3} square metres. Add them twice for the perimeter: {4} metres.",
        ],
        fillers.into(),
    )
}
