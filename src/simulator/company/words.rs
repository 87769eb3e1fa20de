//! What people, places and things are called here. Some names are not ASCII: their bytes must survive the way.

pub(super) const FIRST: [&str; 40] = [
    "Ada", "Amira", "Anton", "Beatriz", "Carlos", "Chloé", "Daniel", "Elif", "Emma", "Femi", "Grace", "Hana", "Hugo",
    "Ingrid", "Ivan", "Jonas", "José", "Julia", "Kenji", "Lena", "Lucía", "Łukasz", "Mai", "Marta", "Mateo", "Nadia",
    "Noah", "Olga", "Oscar", "Priya", "Quentin", "Rosa", "Sam", "Sofía", "Tom", "Uma", "Víctor", "Wei", "Yara", "Zoë",
];

pub(super) const LAST: [&str; 40] = [
    "Abebe",
    "Andersson",
    "Baker",
    "Bianchi",
    "Çelik",
    "Costa",
    "Dubois",
    "Eriksen",
    "Fischer",
    "García",
    "Haddad",
    "Ito",
    "Jansen",
    "Kovács",
    "Kumar",
    "Lee",
    "Lindqvist",
    "Martin",
    "Meyer",
    "Moreau",
    "Müller",
    "Nakamura",
    "Novák",
    "O'Brien",
    "Okafor",
    "Petrov",
    "Quinn",
    "Ricci",
    "Rossi",
    "Santos",
    "Schmidt",
    "Silva",
    "Singh",
    "Smith",
    "Tanaka",
    "Torres",
    "Ündes",
    "Van Dijk",
    "Wójcik",
    "Zhang",
];

pub(super) const FIRM: [&str; 32] = [
    "Alder",
    "Amber",
    "Arctic",
    "Beacon",
    "Birch",
    "Blue Harbor",
    "Bright",
    "Cedar",
    "Copper",
    "Delta",
    "Ember",
    "Falcon",
    "Fjord",
    "Granite",
    "Harvest",
    "Indigo",
    "Juniper",
    "Keystone",
    "Lakeside",
    "Lumen",
    "Maple",
    "Meridian",
    "Nordlys",
    "Oak & Sons",
    "Pioneer",
    "Quarry",
    "Redwood",
    "Silver",
    "Summit",
    "Tidal",
    "Umbra",
    "Zenit",
];

pub(super) const TRADE: [&str; 20] = [
    "Analytics",
    "Bakeries",
    "Brewing",
    "Cargo",
    "Clinics",
    "Construction",
    "Design",
    "Energy",
    "Farms",
    "Fitness",
    "Foods",
    "Hotels",
    "Instruments",
    "Insurance",
    "Logistics",
    "Media",
    "Robotics",
    "Software",
    "Solar",
    "Textiles",
];

pub(super) const FORM: [&str; 8] = ["Inc.", "GmbH", "Ltd", "S.A.", "AB", "LLC", "株式会社", "Kft."];

pub(super) const INDUSTRY: [&str; 8] =
    ["Technology", "Manufacturing", "Hospitality", "Health care", "Retail", "Transport", "Finance", "Agriculture"];

pub const CITY: [(&str, &str); 16] = [
    ("Amsterdam", "NL"),
    ("Berlin", "DE"),
    ("Bogotá", "CO"),
    ("Chicago", "US"),
    ("Dublin", "IE"),
    ("Göteborg", "SE"),
    ("İzmir", "TR"),
    ("Kraków", "PL"),
    ("Lagos", "NG"),
    ("Lyon", "FR"),
    ("Mumbai", "IN"),
    ("Osaka", "JP"),
    ("São Paulo", "BR"),
    ("Sydney", "AU"),
    ("Toronto", "CA"),
    ("Valencia", "ES"),
];

pub(super) const TITLE: [&str; 12] = [
    "CEO",
    "CTO",
    "Head of Sales",
    "Buyer",
    "Office Manager",
    "Director of Operations",
    "Procurement Lead",
    "Founder",
    "IT Manager",
    "CFO",
    "Account Manager",
    "Plant Manager",
];

pub(super) const PRODUCT: [&str; 14] = [
    "Annual licence",
    "Starter package",
    "Enterprise rollout",
    "Pilot project",
    "Support contract",
    "Renewal",
    "Training days",
    "Hardware refresh",
    "Migration",
    "Integration",
    "Second site",
    "Upgrade",
    "Consulting",
    "Expansion",
];

pub(super) const SOURCE: [&str; 7] =
    ["Web form", "Trade fair", "Referral", "Cold call", "Newsletter", "Partner", "Webinar"];

pub(super) const TAG: [&str; 10] =
    ["vip", "renewal", "q1", "q2", "needs-demo", "price-sensitive", "partner", "événement", "north", "south"];

pub(super) const NOTE: [&str; 16] = [
    "Asked for a quote by Friday.",
    "Prefers e-mail; calls only after 2 p.m.",
    "Budget is approved, waiting for legal.",
    "Competitor offered 12% less.\nWe stay with our price.",
    "Met at the fair: very interested in the pilot.",
    "Decision moved to next quarter :(",
    "Said \"send me the numbers, not the slides\".",
    "Wants SSO & an API before signing.",
    "Demo went well 🎉 — follow up on Monday.",
    "New contact took over, see C:\\crm\\handover.txt",
    "Contract is with procurement.",
    "Needs delivery to three sites (Köln, Łódź, Málaga).",
    "Paid the last invoice late; ask finance first.",
    "Liked the roadmap. Open question: data residency.",
    "Left a voicemail.",
    "価格表を送付済み。来週電話する。",
];

pub const OUTCOME: [&str; 5] = ["Interested", "No answer", "Left voicemail", "Call back later", "Not interested"];

pub(super) const LOSS: [&str; 5] = ["Price", "Competitor", "No budget", "No decision", "Timing"];
