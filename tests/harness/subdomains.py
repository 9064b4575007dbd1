"""Shows control of a domain with all host names below it (RFC 9444), with certbot's account and certbot's library.

subdomains.py DIRECTORY-URL CERTBOT-CONFIG DOMAIN ZONE    pre-authorizes DOMAIN by dns-01, the record put into the file ZONE; then
orders a name below it, once by the domain above and once without saying so; prints what it saw as JSON
"""

import glob
import hashlib
import json
import sys
import time

import josepy
from acme import client, messages


class Payload:
    def __init__(self, members):
        self.members = members

    def json_dumps(self, **_):
        return json.dumps(self.members)


def main(url, config, domain, zone):
    [path] = glob.glob(f"{config}/accounts/**/private_key.json", recursive=True)
    with open(path) as file:
        key = josepy.JWK.json_loads(file.read())
    with open(path.replace("private_key", "regr")) as file:
        account = messages.RegistrationResource.json_loads(file.read())
    is_rsa = isinstance(key, josepy.JWKRSA)
    net = client.ClientNetwork(key, account=account, alg=josepy.RS256 if is_rsa else josepy.ES256)
    acme = client.ClientV2(client.ClientV2.get_directory(url, net), net)

    identifier = {"type": "dns", "value": domain, "subdomainAuthAllowed": True}
    made = acme._post(acme.directory["newAuthz"], Payload({"identifier": identifier}))
    authorization = made.json()
    [challenge] = authorization["challenges"]
    thumbprint = josepy.b64encode(key.thumbprint()).decode()
    digest = hashlib.sha256(f"{challenge['token']}.{thumbprint}".encode()).digest()
    with open(zone, "a") as file:
        file.write(f"_acme-challenge.{domain}. {josepy.b64encode(digest).decode()}\n")
    acme._post(challenge["url"], Payload({}))
    while authorization["status"] == "pending":
        time.sleep(0.2)
        authorization = acme._post_as_get(made.headers["Location"]).json()

    orders = []
    for more in [{"ancestorDomain": domain}, {}]:
        identifier = {"type": "dns", "value": f"host.{domain}", **more}
        orders.append(acme._post(acme.directory["newOrder"], Payload({"identifiers": [identifier]})).json())
    print(json.dumps({"authorization": authorization, "orders": orders, "at": made.headers["Location"]}))


main(*sys.argv[1:])
