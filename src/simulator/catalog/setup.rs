//! What an account is set up with, in the live dialect: its people, its pipeline, and the words to choose from.

use super::super::company::Kind;
use super::live::{
    CREATED, CREATOR, CURRENCIES, CURRENCY, ID, NAME, UPDATED, boolean, integer, long, refers, resource, text, time,
};
use super::{Attribute, Of, READ, Resource, Verb, WRITE};

const NAMED: &[Attribute] = &[ID, CREATOR, NAME, CREATED, UPDATED];
const SOURCES: &[Attribute] = &[ID, CREATOR, NAME, text("resource_type").defaulted(), CREATED, UPDATED];
const FIELDS: &[Attribute] = &[
    ID,
    NAME.fixed(),
    Attribute::new("type", Of::Choice(FIELD_TYPES)).required().fixed(),
    boolean("for_organisation"),
    boolean("for_contact"),
    boolean("for_prospect"),
    boolean("for_customer"),
    Attribute::new("choices", Of::Json),
    CREATED,
    UPDATED,
    text("of").hidden().read_only(),
];
pub(super) const FIELD_TYPES: &[&str] = &[
    "string",
    "text",
    "number",
    "boolean",
    "bool",
    "date",
    "datetime",
    "list",
    "multi_select_list",
    "address",
    "phone",
    "email",
    "url",
];

const fn fields(under: &'static str) -> Resource {
    Resource {
        path: "custom_fields",
        under: Some((under, "of")),
        name: "custom_field",
        kinds: &[Kind::CustomField],
        verbs: WRITE,
        attributes: FIELDS,
        either: &[],
    }
}

pub(super) const RESOURCES: &[Resource] = &[
    resource(
        "accounts",
        "account",
        &[Kind::Account],
        &[],
        &[
            ID,
            NAME,
            CURRENCY,
            text("time_format"),
            text("timezone"),
            text("phone"),
            text("subdomain"),
            CREATED,
            UPDATED,
        ],
    ),
    resource(
        "users",
        "user",
        &[Kind::User],
        READ,
        &[
            ID,
            NAME,
            text("email"),
            text("role"),
            text("status"),
            boolean("confirmed"),
            text("phone_number"),
            text("timezone"),
            text("team_name"),
            refers("reports_to", &[Kind::User]),
            time("deleted_at"),
            CREATED,
            UPDATED,
        ],
    ),
    resource("call_outcomes", "call_outcome", &[Kind::CallOutcome], &[Verb::List], NAMED),
    resource("visit_outcomes", "visit_outcome", &[Kind::VisitOutcome], &[Verb::List], NAMED),
    resource(
        "products",
        "product",
        &[Kind::Product],
        WRITE,
        &[
            ID,
            NAME,
            long("description"),
            text("sku"),
            boolean("active"),
            Attribute::new("max_discount", Of::Decimal),
            Attribute::new("max_markup", Of::Decimal),
            Attribute::new("cost", Of::Decimal),
            Attribute::new("cost_currency", Of::Choice(CURRENCIES)),
            Attribute::new("prices", Of::Json),
            CREATED,
            UPDATED,
        ],
    ),
    resource(
        "pipelines",
        "pipeline",
        &[Kind::Pipeline],
        &[Verb::List],
        &[ID, NAME, boolean("disabled"), CREATED, UPDATED],
    ),
    resource(
        "stages",
        "stage",
        &[Kind::Stage],
        &[Verb::List],
        &[
            ID,
            NAME,
            text("category"),
            integer("position"),
            integer("likelihood"),
            boolean("active"),
            refers("pipeline_id", &[Kind::Pipeline]),
            CREATED,
            UPDATED,
        ],
    ),
    resource(
        "tags",
        "tag",
        &[Kind::Tag],
        WRITE,
        &[
            ID,
            CREATOR,
            NAME,
            Attribute::new("resource_type", Of::Choice(&["lead", "contact", "deal"])).required().fixed(),
            CREATED,
            UPDATED,
        ],
    ),
    resource("deal_sources", "deal_source", &[Kind::DealSource], WRITE, SOURCES),
    // Its older name.
    resource("sources", "source", &[Kind::DealSource], WRITE, NAMED),
    resource("lead_sources", "lead_source", &[Kind::LeadSource], WRITE, SOURCES),
    resource("loss_reasons", "loss_reason", &[Kind::LossReason], WRITE, NAMED),
    resource("deal_unqualified_reasons", "deal_unqualified_reason", &[Kind::DealUnqualifiedReason], WRITE, NAMED),
    resource(
        "lead_unqualified_reasons",
        "lead_unqualified_reason",
        &[Kind::LeadUnqualifiedReason],
        &[Verb::List],
        NAMED,
    ),
    fields("lead"),
    fields("contact"),
    fields("deal"),
    fields("prospect_and_customer"),
];
