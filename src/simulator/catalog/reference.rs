//! Core as the project's user describes it (sell-api.md R5).

use super::super::company::Kind;
use super::{Attribute, Of, READ, Resource, Verb, WRITE, setup::FIELD_TYPES};

const fn text(name: &'static str) -> Attribute {
    Attribute::new(name, Of::Text(255))
}

const fn time(name: &'static str) -> Attribute {
    Attribute::new(name, Of::Time)
}

const fn refers(name: &'static str, kinds: &'static [Kind]) -> Attribute {
    Attribute::new(name, Of::Id(kinds))
}

const ID: Attribute = Attribute::new("id", Of::Integer).read_only();
const OWNER: Attribute = refers("owner_id", &[Kind::User]).defaulted();
const CREATED: Attribute = time("created_at").read_only();
const UPDATED: Attribute = time("updated_at").read_only();
const NAME: Attribute = text("name").required();
const TAGS: Attribute = Attribute::new("tags", Of::Tags).defaulted();
const CUSTOM: Attribute = Attribute::new("custom_fields", Of::Custom).defaulted();
const ADDRESS: Attribute = Attribute::new("address", Of::Address);
const ORGANIZATION: Attribute = refers("organization_id", &[Kind::Organization]);

const fn resource(
    path: &'static str,
    name: &'static str,
    kinds: &'static [Kind],
    verbs: &'static [Verb],
    attributes: &'static [Attribute],
) -> Resource {
    Resource { path, under: None, name, kinds, verbs, attributes, either: &[] }
}

const STAGES: &[Attribute] = &[
    ID,
    NAME,
    text("category"),
    Attribute::new("position", Of::Integer),
    Attribute::new("likelihood", Of::Integer),
    refers("pipeline_id", &[Kind::Pipeline]),
    CREATED,
    UPDATED,
];

pub(super) const RESOURCES: &[Resource] = &[
    Resource {
        path: "leads",
        under: None,
        name: "lead",
        kinds: &[Kind::Lead],
        verbs: WRITE,
        attributes: &[
            ID,
            text("first_name"),
            text("last_name"),
            text("organization_name"),
            text("title"),
            text("status").defaulted(),
            text("source"),
            text("email"),
            text("phone"),
            text("city"),
            OWNER,
            TAGS,
            CREATED,
            UPDATED,
        ],
        either: &["last_name", "organization_name"],
    },
    resource(
        "contacts",
        "contact",
        &[Kind::Contact],
        WRITE,
        &[
            ID,
            text("first_name"),
            text("last_name").required(),
            text("title"),
            text("email"),
            text("phone"),
            ADDRESS,
            ORGANIZATION,
            OWNER,
            TAGS,
            CREATED,
            UPDATED,
        ],
    ),
    resource(
        "organizations",
        "organization",
        &[Kind::Organization],
        WRITE,
        &[
            ID,
            NAME,
            text("industry"),
            text("website"),
            Attribute::new("employees", Of::Integer),
            text("phone"),
            ADDRESS,
            OWNER,
            TAGS,
            CREATED,
            UPDATED,
        ],
    ),
    resource(
        "deals",
        "deal",
        &[Kind::Deal],
        WRITE,
        &[
            ID,
            NAME,
            Attribute::new("value", Of::Amount).defaulted(),
            text("currency").defaulted(),
            text("status").read_only(),
            refers("stage_id", &[Kind::Stage]).defaulted(),
            text("stage").read_only(),
            Attribute::new("hot", Of::Boolean).defaulted(),
            refers("contact_id", &[Kind::Contact, Kind::Organization]),
            ORGANIZATION,
            OWNER,
            Attribute::new("estimated_close_date", Of::Date),
            text("loss_reason"),
            TAGS,
            CUSTOM,
            CREATED,
            UPDATED,
        ],
    ),
    resource(
        "activities",
        "activity",
        &[Kind::Call, Kind::Email, Kind::Note, Kind::Meeting],
        WRITE,
        &[
            ID,
            Attribute::new("type", Of::Choice(&["Call", "Email", "Note", "Meeting"])).required().fixed(),
            Attribute::new("content", Of::Text(32_768)),
            Attribute::new("resource_type", Of::Choice(&["lead", "contact", "organization", "deal"])).required(),
            refers("resource_id", &[Kind::Lead, Kind::Contact, Kind::Organization, Kind::Deal]).required(),
            OWNER,
            time("occurs_at").defaulted(),
            Attribute::new("duration", Of::Integer).defaulted(),
            Attribute::new("completed", Of::Boolean).defaulted(),
            CREATED,
            UPDATED,
        ],
    ),
    resource("pipelines", "pipeline", &[Kind::Pipeline], READ, &[ID, NAME, CREATED, UPDATED]),
    Resource {
        path: "stages",
        under: Some(("pipelines", "pipeline_id")),
        name: "stage",
        kinds: &[Kind::Stage],
        verbs: &[Verb::List],
        attributes: STAGES,
        either: &[],
    },
    resource("stages", "stage", &[Kind::Stage], &[Verb::Get], STAGES),
    resource(
        "custom_fields",
        "custom_field",
        &[Kind::CustomField],
        &[Verb::List, Verb::Create, Verb::Update, Verb::Delete],
        &[
            ID,
            NAME,
            Attribute::new("type", Of::Choice(FIELD_TYPES)).required().fixed(),
            Attribute::new("resource", Of::Choice(&["lead", "contact", "organization", "deal"])).defaulted(),
            Attribute::new("choices", Of::Json),
            CREATED,
            UPDATED,
        ],
    ),
    resource(
        "apps",
        "app",
        &[Kind::App],
        &[Verb::List, Verb::Get, Verb::Create, Verb::Delete],
        &[
            ID,
            NAME,
            Attribute::new("description", Of::Text(32_768)),
            text("redirect_uri"),
            Attribute::new("scopes", Of::Json),
            text("client_id").read_only(),
            CREATED,
            UPDATED,
        ],
    ),
];
