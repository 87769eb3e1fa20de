use proptest::prelude::*;

use super::*;

fn guard(allowed: &[&str]) -> Guard {
    let allowed: Vec<IpNet> = allowed.iter().map(|text| text.parse().unwrap()).collect();
    Guard::new(true, &allowed)
}

fn url(text: &str) -> Url {
    Url::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Field 11: private, mapped, metadata: in every spelling.
#[test]
fn a_hostile_address_is_refused_however_it_is_spelled() {
    for host in [
        "127.0.0.1",
        "127.1",
        "127.0.0.1.",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0x7f.1",
        "%31%32%37.0.0.1",
        "①②⑦.0.0.1",
        "127。0。0。1",
        "0.0.0.0",
        "0",
        "10.0.0.1",
        "10.255.255.255",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "100.64.0.1",
        "100.127.255.255",
        "169.254.169.254",
        "0xa9fea9fe",
        "2852039166",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.8",
        "192.0.2.1",
        "198.51.100.7",
        "203.0.113.7",
        "192.88.99.1",
        "198.18.0.1",
        "198.19.255.255",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "[::]",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::ffff:10.0.0.1]",
        "[::ffff:169.254.169.254]",
        "[::127.0.0.1]",
        "[::8.8.8.8]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b::a9fe:a9fe]",
        "[64:ff9b:1::1]",
        "[2001::1]",
        "[2001:0:4136:e378:8000:63bf:3fff:fdd2]",
        "[2002:7f00:1::]",
        "[2002:808:808::1]",
        "[2001:db8::1]",
        "[3fff::1]",
        "[2001:2::1]",
        "[2001:20::1]",
        "[fc00::1]",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[febf::1]",
        "[fec0::1]",
        "[ff02::1]",
        "[100::1]",
        "[5f00::1]",
        "[4000::1]",
    ] {
        let judged = guard(&[]).url(&url(&format!("http://{host}/")));
        assert!(matches!(judged, Err(Refused::Address { .. })), "{host}: {judged:?}");
    }
}

#[test]
fn a_public_address_is_let_through() {
    for host in [
        "8.8.8.8",
        "1.1.1.1",
        "172.15.0.1",
        "172.32.0.1",
        "100.63.255.255",
        "100.128.0.1",
        "[2606:4700::1111]",
        "[2001:4860:4860::8888]",
        "[::ffff:8.8.8.8]",
        "[64:ff9b::8.8.8.8]",
        "hooks.example.com",
    ] {
        assert_eq!(guard(&[]).url(&url(&format!("https://{host}/"))), Ok(()), "{host}");
    }
}

#[test]
fn a_network_is_opened_on_purpose_and_no_other_with_it() {
    let open = guard(&["127.0.0.0/8", "fd00::/8"]);
    for host in ["127.0.0.1", "[::ffff:127.0.0.1]", "[fd00::1]"] {
        assert_eq!(open.url(&url(&format!("https://{host}/"))), Ok(()), "{host}");
    }
    for host in ["[::1]", "10.0.0.1", "[fc00::1]", "169.254.169.254"] {
        assert!(open.url(&url(&format!("https://{host}/"))).is_err(), "{host}");
    }
}

#[test]
fn http_needs_a_word_and_other_schemes_never_pass() {
    let strict = Guard::new(false, &[]);
    assert_eq!(strict.url(&url("http://hooks.example.com/")), Err(Refused::Clear));
    assert_eq!(guard(&[]).url(&url("http://hooks.example.com/")), Ok(()));
    for text in ["ftp://hooks.example.com/", "file:///etc/passwd", "gopher://hooks.example.com/", "data:,x"] {
        assert_eq!(guard(&[]).url(&url(text)), Err(Refused::Scheme), "{text}");
    }
}

#[test]
fn a_name_keeps_only_its_harmless_addresses() {
    let at = |text: &str| SocketAddr::new(text.parse().unwrap(), 0);
    let kept = guard(&[]).resolved("two.example", vec![at("10.0.0.1"), at("8.8.8.8")]);
    assert_eq!(kept, Ok(vec![at("8.8.8.8")]));
    let refused = guard(&[]).resolved("rebound.example", vec![at("::1"), at("127.0.0.1")]);
    assert!(matches!(refused, Err(Refused::Resolved { host, .. }) if host == "rebound.example"));
}

#[tokio::test]
async fn a_name_that_leads_home_is_refused_at_the_connect() {
    let name = "localhost".parse::<Name>().unwrap();
    let Err(error) = tower::Service::call(&mut guard(&[]), name).await else { panic!("localhost was resolved") };
    assert!(error.downcast_ref::<Refused>().is_some(), "{error}");
}

proptest! {
    /// Wrapping an IPv4 address in IPv6 never makes it pass.
    #[test]
    fn a_forbidden_v4_address_stays_forbidden_in_every_v6_wrapping(bits: u32, nat64: bool) {
        let v4 = Ipv4Addr::from_bits(bits);
        let [a, b, c, d] = v4.octets();
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let wrapped = if nat64 {
            Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low)
        } else {
            v4.to_ipv6_mapped()
        };
        prop_assert_eq!(guard(&[]).address(v4.into()).is_err(), guard(&[]).address(wrapped.into()).is_err());
    }

    /// What the standard library knows to be special is refused.
    #[test]
    fn what_the_standard_library_calls_special_is_refused(bits: u32) {
        let v4 = Ipv4Addr::from_bits(bits);
        let special = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast()
            || v4.is_unspecified() || v4.is_documentation() || v4.is_broadcast();
        prop_assert!(!special || guard(&[]).address(v4.into()).is_err());
    }
}
