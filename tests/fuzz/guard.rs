//! The guard against addresses that an event must not reach, beside a table of networks that was written apart from it.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use reqwest::Url;
use standpipe::sink::webhook::{Guard, Refused};

use crate::fuzz;
use crate::recipe::Recipe;

/// IPv4 networks that nothing may be sent to.
const CLOSED_V4: [&str; 18] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "255.255.255.255/32",
    "100.100.100.200/32",
];
/// Networks within IPv6's global unicast that nothing may be sent to.
const CLOSED_V6: [&str; 9] = [
    "2001::/23",
    "2001::/32",
    "2001:2::/48",
    "2001:10::/28",
    "2001:20::/28",
    "2001:30::/28",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
];
/// Networks whose addresses carry an IPv4 address in their last 32 bits, and are what that one is.
const CARRYING: [&str; 2] = ["::ffff:0:0/96", "64:ff9b::/96"];
/// Further places at which a mistake would show.
const ELSEWHERE: [&str; 14] = [
    "::/96",
    "::1/128",
    "::ffff:0:0:0/96",
    "64:ff9b:1::/48",
    "64:ff9b:0:1::/64",
    "100::/64",
    "2000::/3",
    "2600::/12",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
    "8.8.8.0/24",
];

fn network(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn within(address: IpAddr, networks: &[&str]) -> bool {
    networks.iter().any(|text| network(text).contains(&address))
}

fn carried(address: Ipv6Addr) -> Ipv4Addr {
    Ipv4Addr::from_bits((address.to_bits() & u128::from(u32::MAX)).try_into().unwrap())
}

/// Whether an address is a public one, by the table.
fn public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => !within(address, &CLOSED_V4),
        IpAddr::V6(v6) if within(address, &CARRYING) => public(carried(v6).into()),
        IpAddr::V6(_) => within(address, &["2000::/3"]) && !within(address, &CLOSED_V6),
    }
}

/// An address anywhere, or in a network of the table, at its edges or just outside.
fn address(recipe: &mut Recipe<'_>) -> IpAddr {
    let tables: [&[&str]; 4] = [&CLOSED_V4, &CLOSED_V6, &CARRYING, &ELSEWHERE];
    let Some(table) = tables.get(recipe.below(6)) else {
        return if recipe.flag() {
            Ipv4Addr::from(recipe.array::<4>()).into()
        } else {
            Ipv6Addr::from(recipe.array::<16>()).into()
        };
    };
    let (network, place) = (network(recipe.pick(table)), recipe.below(4));
    match (network.addr(), network.broadcast()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            let (first, last) = (first.to_bits(), last.to_bits());
            let any = u32::from_be_bytes(recipe.array());
            let at = [first, last, first.wrapping_sub(1), last.wrapping_add(1)][place];
            Ipv4Addr::from_bits(if recipe.flag() { at } else { first | any & (last - first) }).into()
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            let (first, last) = (first.to_bits(), last.to_bits());
            let any = u128::from_be_bytes(recipe.array());
            let at = [first, last, first.wrapping_sub(1), last.wrapping_add(1)][place];
            let inside = first | any & (last - first);
            // An IPv4 address of the other table, wherever such a one may be carried.
            let carrying = first & !u128::from(u32::MAX) | u128::from(u32::from_be_bytes([127, 0, 0, 1]));
            Ipv6Addr::from_bits([at, inside, inside, carrying][recipe.below(4)]).into()
        }
        _ => unreachable!("a network begins and ends in one family"),
    }
}

/// A number in one of the spellings that a URL's host may have.
fn number(recipe: &mut Recipe<'_>, value: u32, into: &mut String) {
    match recipe.below(4) {
        0 => write!(into, "{value}"),
        1 => write!(into, "0x{value:x}"),
        2 => write!(into, "0X{value:08X}"),
        _ => write!(into, "0{value:o}"),
    }
    .unwrap();
}

/// The address as a URL may spell it.
fn spelled(recipe: &mut Recipe<'_>, address: IpAddr) -> String {
    let mut host = String::new();
    match address {
        IpAddr::V6(v6) => match recipe.below(4) {
            0 => write!(host, "[{v6}]").unwrap(),
            1 => {
                let parts: Vec<String> = v6.segments().iter().map(|part| format!("{part:04X}")).collect();
                write!(host, "[{}]", parts.join(":")).unwrap();
            }
            2 => {
                let parts: Vec<String> = v6.segments()[..6].iter().map(|part| format!("{part:x}")).collect();
                write!(host, "[{}:{}]", parts.join(":"), carried(v6)).unwrap();
            }
            _ => write!(host, "[{}]", v6.to_string().to_uppercase()).unwrap(),
        },
        IpAddr::V4(v4) => {
            let bits = v4.to_bits();
            let [a, b, c, d] = v4.octets().map(u32::from);
            let parts: &[u32] = match recipe.below(5) {
                0 => &[bits],
                1 => &[a, bits & 0xff_ffff],
                2 => &[a, b, bits & 0xffff],
                _ => &[a, b, c, d],
            };
            for (at, part) in parts.iter().enumerate() {
                if at > 0 {
                    host.push_str(recipe.pick(&[".", ".", ".", "。", "．", "%2E", "｡"]));
                }
                number(recipe, *part, &mut host);
            }
            if recipe.below(4) == 0 {
                host.push('.');
            }
            // Digits that only look different, and digits in percent-encoding.
            match recipe.below(4) {
                0 => host = host.chars().map(wide).collect(),
                1 => {
                    let encoded = |c: char| if c.is_ascii_digit() { format!("%{:02x}", c as u32) } else { c.into() };
                    host = host.chars().map(encoded).collect();
                }
                _ => {}
            }
        }
    }
    host
}

fn wide(c: char) -> char {
    match c.to_digit(10) {
        Some(digit) if c.is_ascii() => char::from_u32(0xff10 + digit).unwrap(),
        _ => c,
    }
}

fn judge(guard: &Guard, address: IpAddr, open: &[IpNet]) {
    let plain = match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    };
    let opened = open.iter().any(|network| network.contains(&address) || network.contains(&plain));
    let judged = guard.address(address);
    assert_eq!(judged.is_ok(), public(address) || opened, "{address}: {judged:?}");
}

fn property(input: &[u8]) {
    let mut recipe = Recipe::new(input);
    let open: Vec<IpNet> = match recipe.below(4) {
        0 => vec![network(recipe.pick(&["127.0.0.0/8", "10.0.0.0/8", "fd00::/8", "::1/128", "169.254.169.254/32"]))],
        _ => Vec::new(),
    };
    let guard = Guard::new(true, &open);
    let address = address(&mut recipe);
    judge(&guard, address, &open);

    // Whatever a URL makes of a host, the guard judges what will be dialled.
    let host = if recipe.flag() {
        spelled(&mut recipe, address)
    } else {
        String::from_utf8_lossy(recipe.raw(40)).into_owned()
    };
    let around = [("http://", "/"), ("https://", ":8080/x?y#z"), ("http://u:p@", ""), ("HTTPS:\\\\", "\\"), ("", "")];
    let (before, after) = around[recipe.below(around.len())];
    if let Ok(url) = Url::parse(&format!("{before}{host}{after}")) {
        let judged = guard.url(&url);
        match (url.host_str().map(|host| host.trim_matches(['[', ']']).parse::<IpAddr>()), &judged) {
            (Some(Ok(dialled)), Ok(())) => judge(&guard, dialled, &open),
            (Some(Ok(dialled)), Err(Refused::Address { .. })) => assert!(guard.address(dialled).is_err(), "{url}"),
            (_, Ok(())) => assert!(url.domain().is_some_and(|name| !name.is_empty()), "{url}"),
            (_, Err(refused)) => assert!(matches!(refused, Refused::Scheme), "{url}: {refused}"),
        }
        if judged.is_ok() {
            assert!(matches!(url.scheme(), "http" | "https"), "{url}");
            assert!(url.scheme() == "https" || Guard::new(false, &open).url(&url) == Err(Refused::Clear), "{url}");
        }
    }

    // A name keeps those of its addresses that each would pass alone, in their order.
    let addresses: Vec<SocketAddr> =
        (0..recipe.below(4)).map(|_| SocketAddr::new(self::address(&mut recipe), 443)).collect();
    let passing: Vec<SocketAddr> =
        addresses.iter().copied().filter(|address| guard.address(address.ip()).is_ok()).collect();
    match guard.resolved("hooks.example", addresses.clone()) {
        Ok(kept) => assert_eq!(kept, passing),
        Err(refused) => assert!(passing.is_empty() && !addresses.is_empty(), "{addresses:?}: {refused}"),
    }
}

#[test]
fn no_spelling_of_an_address_that_is_not_public_passes_the_guard() {
    fuzz!("guard", property);
}
