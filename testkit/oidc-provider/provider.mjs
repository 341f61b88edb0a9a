// An OpenID provider on a free port of loopback, for testkit/tests/oidc_provider.rs. It is told what to do by lines on standard input and
// answers each with a line of JSON; it ends when standard input does.
//
//   ["keys", "k2"]   signs and publishes with a new key of this id alone   -> {"keys": ["k2"]}
//   ["asked"]        how often the published keys were asked for           -> {"asked": 3}
//
// Resources: what an access token is for. A name that ends in `/expired` gives one whose time is over, all else being right.

import { createServer } from 'node:http';
import { generateKeyPairSync } from 'node:crypto';
import { createInterface } from 'node:readline';
import Provider from 'oidc-provider';

const [, , clientId, clientSecret, audience] = process.argv;
const SCOPES = '*:* network:read network:create';

let asked = 0;
let handler;

function key(kid) {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return { ...privateKey.export({ format: 'jwk' }), kid, alg: 'ES256', use: 'sig' };
}

function serve(issuer, kid) {
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: clientId,
        client_secret: clientSecret,
        grant_types: ['client_credentials'],
        redirect_uris: [],
        response_types: [],
      },
    ],
    jwks: { keys: [key(kid)] },
    clientAuthMethods: ['client_secret_basic'],
    // Only the kinds of signature that the keys are for.
    enabledJWA: { idTokenSigningAlgValues: ['ES256'] },
    clientDefaults: { id_token_signed_response_alg: 'ES256' },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_ctx, resource) => ({
          scope: SCOPES,
          audience: resource.replace(/\/expired$/, ''),
          accessTokenTTL: 600,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: 'ES256' } },
        }),
      },
    },
    formats: {
      customizers: {
        jwt: (ctx, _token, parts) => {
          if (ctx.oidc.params.resource === `${audience}/expired`) {
            parts.payload.exp = Math.floor(Date.now() / 1000) - 300;
          }
        },
      },
    },
  });
  handler = provider.callback();
}

const server = createServer((request, response) => {
  if (request.url === '/jwks') asked += 1;
  handler(request, response);
});

server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  serve(issuer, 'k1');
  const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);
  say({ issuer });
  createInterface({ input: process.stdin })
    .on('line', (line) => {
      const [what, kid] = JSON.parse(line);
      if (what === 'keys') {
        serve(issuer, kid);
        say({ keys: [kid] });
      } else if (what === 'asked') {
        say({ asked });
      } else {
        say({ unknown: what });
      }
    })
    .on('close', () => process.exit(0));
});
