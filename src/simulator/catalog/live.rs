//! Core v2 as the vendor speaks it (sell-api.md L5).

use super::super::company::Kind;
use super::{Attribute, Of, READ, Resource, UPSERT, Verb, WRITE};

pub(super) const fn text(name: &'static str) -> Attribute {
    Attribute::new(name, Of::Text(255))
}

pub(super) const fn long(name: &'static str) -> Attribute {
    Attribute::new(name, Of::Text(32_768))
}

pub(super) const fn time(name: &'static str) -> Attribute {
    Attribute::new(name, Of::Time)
}

pub(super) const fn integer(name: &'static str) -> Attribute {
    Attribute::new(name, Of::Integer)
}

pub(super) const fn boolean(name: &'static str) -> Attribute {
    Attribute::new(name, Of::Boolean).defaulted()
}

pub(super) const fn refers(name: &'static str, kinds: &'static [Kind]) -> Attribute {
    Attribute::new(name, Of::Id(kinds))
}

pub(super) const ID: Attribute = integer("id").read_only();
pub(super) const CREATOR: Attribute = refers("creator_id", &[Kind::User]).read_only();
pub(super) const OWNER: Attribute = refers("owner_id", &[Kind::User]).defaulted();
pub(super) const CREATED: Attribute = time("created_at").read_only();
pub(super) const UPDATED: Attribute = time("updated_at").read_only();
pub(super) const NAME: Attribute = text("name").required();
pub(super) const TAGS: Attribute = Attribute::new("tags", Of::Tags).defaulted();
pub(super) const CUSTOM: Attribute = Attribute::new("custom_fields", Of::Custom).defaulted();
pub(super) const ADDRESS: Attribute = Attribute::new("address", Of::Address);
pub(super) const ABOUT: Attribute =
    Attribute::new("resource_type", Of::Choice(&["lead", "contact", "deal"])).required();
pub(super) const ABOUT_ID: Attribute =
    refers("resource_id", &[Kind::Lead, Kind::Contact, Kind::Organization, Kind::Deal]).required();
pub(super) const CURRENCY: Attribute = Attribute::new("currency", Of::Choice(CURRENCIES)).defaulted();

pub(super) const CURRENCIES: &[&str] =
    &["USD", "EUR", "GBP", "PLN", "CAD", "AUD", "CHF", "SEK", "NOK", "DKK", "JPY", "BRL", "INR"];
pub(super) const CONTACTS: &[Kind] = &[Kind::Contact, Kind::Organization];

pub(super) const fn resource(
    path: &'static str,
    name: &'static str,
    kinds: &'static [Kind],
    verbs: &'static [Verb],
    attributes: &'static [Attribute],
) -> Resource {
    Resource { path, under: None, name, kinds, verbs, attributes, either: &[] }
}

/// What contacts and leads have in common: who they are, and how they are reached.
const REACHED: [Attribute; 12] = [
    text("title"),
    long("description"),
    text("industry"),
    text("website"),
    text("email"),
    text("phone"),
    text("mobile"),
    text("fax"),
    text("twitter"),
    text("facebook"),
    text("linkedin"),
    text("skype"),
];

/// A person, or an organization.
const CONTACT: [Attribute; 30] = joined(&[
    &[
        ID,
        CREATOR,
        OWNER,
        boolean("is_organization").fixed(),
        refers("contact_id", &[Kind::Organization]),
        refers("parent_organization_id", &[Kind::Organization]),
        text("name").defaulted(),
        text("first_name"),
        text("last_name"),
        Attribute::new("customer_status", Of::Choice(&["none", "current", "past"])),
        Attribute::new("prospect_status", Of::Choice(&["none", "current", "lost"])),
    ],
    &REACHED,
    &[
        ADDRESS,
        Attribute::new("billing_address", Of::Address),
        Attribute::new("shipping_address", Of::Address),
        TAGS,
        CUSTOM,
        CREATED,
        UPDATED,
    ],
]);

/// Somebody who may become one of both.
const LEAD: [Attribute; 25] = joined(&[
    &[
        ID,
        CREATOR,
        OWNER,
        text("first_name"),
        text("last_name"),
        text("organization_name"),
        text("status").defaulted(),
        refers("source_id", &[Kind::LeadSource]),
    ],
    &REACHED,
    &[ADDRESS, TAGS, CUSTOM, CREATED, UPDATED],
]);

/// Lists of attributes as one; it does not compile where `N` is not their number.
const fn joined<const N: usize>(lists: &[&[Attribute]]) -> [Attribute; N] {
    let mut all = [ID; N];
    let (mut list, mut at) = (0, 0);
    while list < lists.len() {
        let mut of_list = 0;
        while of_list < lists[list].len() {
            all[at] = lists[list][of_list];
            at += 1;
            of_list += 1;
        }
        list += 1;
    }
    assert!(at == N);
    all
}

pub(super) const RESOURCES: &[Resource] = &[
    Resource {
        path: "contacts",
        under: None,
        name: "contact",
        kinds: CONTACTS,
        verbs: UPSERT,
        attributes: &CONTACT,
        // A person needs a last name, an organization a name: which of them it is decides.
        either: &[],
    },
    Resource {
        path: "leads",
        under: None,
        name: "lead",
        kinds: &[Kind::Lead],
        verbs: UPSERT,
        attributes: &LEAD,
        either: &["last_name", "organization_name"],
    },
    resource(
        "deals",
        "deal",
        &[Kind::Deal],
        UPSERT,
        &[
            ID,
            CREATOR,
            OWNER,
            NAME,
            Attribute::new("value", Of::Amount).defaulted(),
            CURRENCY,
            boolean("hot"),
            refers("stage_id", &[Kind::Stage]).defaulted(),
            time("last_stage_change_at").defaulted(),
            refers("last_stage_change_by_id", &[Kind::User]).read_only(),
            time("last_activity_at").read_only(),
            refers("source_id", &[Kind::DealSource]),
            refers("loss_reason_id", &[Kind::LossReason]),
            refers("unqualified_reason_id", &[Kind::DealUnqualifiedReason]),
            refers("contact_id", CONTACTS).required(),
            refers("organization_id", &[Kind::Organization]),
            Attribute::new("estimated_close_date", Of::Date),
            integer("customized_win_likelihood"),
            text("dropbox_email").read_only(),
            TAGS,
            CUSTOM,
            time("added_at").read_only(),
            CREATED,
            UPDATED,
        ],
    ),
    Resource {
        path: "associated_contacts",
        under: Some(("deals", "deal_id")),
        name: "associated_contact",
        kinds: &[Kind::AssociatedContact],
        verbs: &[Verb::List, Verb::Create, Verb::Delete],
        attributes: &[
            refers("contact_id", CONTACTS).required(),
            Attribute::new("role", Of::Choice(&["primary", "involved"])).required(),
            refers("deal_id", &[Kind::Deal]).hidden().read_only(),
            CREATED,
            UPDATED,
        ],
        either: &[],
    },
    resource(
        "tasks",
        "task",
        &[Kind::Email],
        WRITE,
        &[
            ID,
            CREATOR,
            OWNER,
            Attribute { required: false, ..ABOUT },
            Attribute { required: false, ..ABOUT_ID },
            boolean("completed"),
            time("completed_at").read_only(),
            time("due_date"),
            boolean("overdue").read_only(),
            time("remind_at"),
            long("content").required(),
            CREATED,
            UPDATED,
        ],
    ),
    resource(
        "notes",
        "note",
        &[Kind::Note],
        WRITE,
        &[
            ID,
            CREATOR,
            ABOUT,
            ABOUT_ID,
            long("content").required(),
            boolean("is_important"),
            TAGS,
            Attribute::new("type", Of::Choice(&["regular", "restricted"])).read_only(),
            CREATED,
            UPDATED,
        ],
    ),
    resource(
        "calls",
        "call",
        &[Kind::Call],
        WRITE,
        &[
            ID,
            refers("user_id", &[Kind::User]).defaulted(),
            ABOUT,
            ABOUT_ID,
            text("phone_number").required(),
            boolean("missed"),
            boolean("incoming"),
            integer("duration").required(),
            time("made_at").defaulted(),
            long("summary"),
            refers("outcome_id", &[Kind::CallOutcome]),
            text("recording_url"),
            UPDATED,
        ],
    ),
    resource(
        "appointments",
        "appointment",
        &[Kind::Meeting],
        WRITE,
        &[
            ID,
            CREATOR,
            OWNER,
            NAME,
            long("description"),
            boolean("all_day"),
            time("start_at").required(),
            time("end_at"),
            Attribute { required: false, ..ABOUT },
            Attribute { required: false, ..ABOUT_ID },
            boolean("completed"),
            CREATED,
            UPDATED,
        ],
    ),
    resource(
        "visits",
        "visit",
        &[Kind::Visit],
        READ,
        &[
            ID,
            CREATOR,
            refers("outcome_id", &[Kind::VisitOutcome]),
            ABOUT,
            ABOUT_ID,
            time("visited_at"),
            text("resource_address"),
            Attribute::new("rep_location_verification_status", Of::Text(255)),
            long("summary"),
            CREATED,
            UPDATED,
        ],
    ),
    resource(
        "text_messages",
        "text_message",
        &[Kind::TextMessage],
        READ,
        &[
            ID,
            refers("user_id", &[Kind::User]),
            ABOUT,
            ABOUT_ID,
            refers("associated_deal_ids", &[Kind::Deal]),
            long("content"),
            boolean("incoming"),
            text("resource_phone_number"),
            text("user_phone_number"),
            time("sent_at"),
            CREATED,
            UPDATED,
        ],
    ),
    resource(
        "orders",
        "order",
        &[Kind::Order],
        WRITE,
        &[
            ID,
            refers("deal_id", &[Kind::Deal]).required().fixed(),
            Attribute::new("discount", Of::Decimal),
            CREATED,
            UPDATED,
        ],
    ),
    Resource {
        path: "line_items",
        under: Some(("orders", "order_id")),
        name: "line_item",
        kinds: &[Kind::LineItem],
        verbs: &[Verb::List, Verb::Get, Verb::Create, Verb::Delete],
        attributes: &[
            ID,
            refers("product_id", &[Kind::Product]).required(),
            text("name").read_only(),
            text("sku").read_only(),
            long("description").read_only(),
            Attribute::new("value", Of::Decimal),
            Attribute::new("variation", Of::Decimal),
            Attribute::new("price", Of::Decimal),
            Attribute::new("currency", Of::Choice(CURRENCIES)).required(),
            integer("quantity"),
            refers("order_id", &[Kind::Order]).hidden().read_only(),
            CREATED,
            UPDATED,
        ],
        either: &[],
    },
    resource(
        "collaborations",
        "collaboration",
        &[Kind::Collaboration],
        &[Verb::List, Verb::Get, Verb::Create, Verb::Delete],
        &[ID, CREATOR, ABOUT, ABOUT_ID, refers("collaborator_id", &[Kind::User]).required(), CREATED, UPDATED],
    ),
    resource(
        "lead_conversions",
        "lead_conversion",
        &[Kind::LeadConversion],
        &[Verb::List, Verb::Get, Verb::Create],
        &[
            ID,
            CREATOR,
            refers("lead_id", &[Kind::Lead]).required(),
            refers("individual_id", &[Kind::Contact]),
            refers("organization_id", &[Kind::Organization]),
            refers("deal_id", &[Kind::Deal]).read_only(),
            OWNER,
            boolean("create_deal").hidden(),
            CREATED,
            UPDATED,
        ],
    ),
];
