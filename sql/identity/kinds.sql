/* sql/identity/kinds.sql: the kinds of identifiers */

-- What comes with the extension; not dumped, a newer version may know more.
CREATE TABLE cdp.builtin_kinds (
	kind text PRIMARY KEY,
	normaliser text NOT NULL DEFAULT 'verbatim',
	priority int NOT NULL,
	max_per_profile int,
	within interval,
	blocked text[] NOT NULL DEFAULT '{}',
	labels text[] NOT NULL DEFAULT '{}',
	entity text NOT NULL DEFAULT 'profile',
	links boolean NOT NULL DEFAULT true,
	policy text NOT NULL DEFAULT 'demote',
	shared text NOT NULL DEFAULT 'first'
);
COMMENT ON TABLE cdp.builtin_kinds IS 'the kinds that come with the extension; see cdp.identifier_kinds';

INSERT INTO cdp.builtin_kinds (kind, normaliser, priority, max_per_profile, labels) VALUES
	('user_id', 'verbatim', 1, 1, '{}'),
	-- addresses of an office, which several people read, tell nobody apart
	('email', 'email', 2, NULL, ARRAY[
		'^(abuse|accounting|accounts|admin|administrator|billing|booking|bookings|careers|contact|'
		'customercare|customerservice|enquiries|feedback|finance|hello|help|helpdesk|hostmaster|hr|'
		'info|information|inquiries|invoice|invoices|it|jobs|kontakt|legal|list|mail|mailer-daemon|'
		'marketing|media|news|newsletter|no-reply|no_reply|noreply|donotreply|do-not-reply|office|'
		'operations|order|orders|post|postmaster|press|privacy|purchasing|reception|recruitment|'
		'reservations|returns|root|sales|security|service|services|shop|staff|store|support|team|'
		'usenet|webmaster|welcome|www)@']),
	('phone', 'phone', 3, NULL, '{}'),
	('loyalty_id', 'verbatim', 4, NULL, '{}'),
	('braze_id', 'verbatim', 10, NULL, '{}'),
	('cross_domain_id', 'verbatim', 11, NULL, '{}'),
	('android.id', 'verbatim', 20, NULL, '{}'),
	('ios.id', 'verbatim', 20, NULL, '{}'),
	('device_id', 'verbatim', 21, NULL, '{}'),
	('android.idfa', 'verbatim', 22, NULL, '{}'),
	('ios.idfa', 'verbatim', 22, NULL, '{}'),
	('android.push_token', 'verbatim', 23, NULL, '{}'),
	('ios.push_token', 'verbatim', 23, NULL, '{}'),
	('ga_client_id', 'verbatim', 30, NULL, '{}'),
	('cookie', 'verbatim', 31, NULL, '{}'),
	('anonymous_id', 'verbatim', 32, NULL, '{}');
INSERT INTO cdp.builtin_kinds (kind, priority, entity, links) VALUES
	('group_id', 50, 'account', false);
INSERT INTO cdp.builtin_kinds (kind, normaliser, priority, entity, links) VALUES
	('domain', 'domain', 51, 'account', false);

-- What users made, and their versions of built-in kinds.
CREATE TABLE cdp.kind_definitions (
	kind text PRIMARY KEY,
	normaliser text NOT NULL CHECK (normaliser IN ('domain', 'email', 'lower', 'nfkc', 'phone', 'verbatim')),
	priority int NOT NULL CHECK (priority > 0),
	max_per_profile int CHECK (max_per_profile > 0),
	within interval CHECK (within IN ('1 day', '7 days', '1 month', '3 months', '1 year')),	-- see check_kind
	blocked text[] NOT NULL,
	labels text[] NOT NULL,
	entity text NOT NULL CHECK (entity IN ('profile', 'account')),
	links boolean NOT NULL,
	policy text NOT NULL DEFAULT 'demote' CHECK (policy IN ('demote', 'refuse', 'quarantine', 'raise')),
	shared text NOT NULL DEFAULT 'first' CHECK (shared IN ('first', 'newest', 'anonymous')),
	CHECK (NOT (links AND entity = 'account'))
);
SELECT pg_extension_config_dump('cdp.kind_definitions', '');
COMMENT ON TABLE cdp.kind_definitions IS 'kinds made by create_identifier_kind, and built-in ones changed by alter_identifier_kind; see cdp.identifier_kinds';

CREATE VIEW cdp.identifier_kinds AS
	SELECT kind, normaliser, priority, max_per_profile, within, blocked, labels, entity, links, policy, shared
	FROM cdp.kind_definitions
	UNION ALL
	SELECT kind, normaliser, priority, max_per_profile, within, blocked, labels, entity, links, policy, shared
	FROM cdp.builtin_kinds b
	WHERE NOT EXISTS (SELECT FROM cdp.kind_definitions d WHERE d.kind = b.kind);
COMMENT ON VIEW cdp.identifier_kinds IS 'the kinds of identifiers and their rules; changed by create_, alter_ and drop_identifier_kind';
COMMENT ON COLUMN cdp.identifier_kinds.kind IS 'name of the kind, what stands before the colon of an identifier';
COMMENT ON COLUMN cdp.identifier_kinds.normaliser IS 'what makes a value canonical: verbatim, lower, nfkc, email, domain or phone';
COMMENT ON COLUMN cdp.identifier_kinds.priority IS 'the entry''s identifier of the smallest priority owns the entry, and the others are linked to it';
COMMENT ON COLUMN cdp.identifier_kinds.max_per_profile IS 'links that would give a profile more identifiers of the kind are refused; NULL: no limit';
COMMENT ON COLUMN cdp.identifier_kinds.within IS 'calendar period in UTC to which max_per_profile applies: 1 day, 7 days (a week from Monday on), 1 month, 3 months (a quarter) or 1 year; NULL: ever';
COMMENT ON COLUMN cdp.identifier_kinds.blocked IS 'values that are ignored: canonical values, and regular expressions, which begin with ^';
COMMENT ON COLUMN cdp.identifier_kinds.labels IS 'values that are kept with a profile but link nothing: canonical values, and regular expressions, which begin with ^';
COMMENT ON COLUMN cdp.identifier_kinds.entity IS 'what identifiers of the kind name: profile (a person) or account';
COMMENT ON COLUMN cdp.identifier_kinds.links IS 'does an identifier of the kind show that two entries are about one person?';
COMMENT ON COLUMN cdp.identifier_kinds.policy IS 'what becomes of an entry whose link breaks the limit: demote (it counts for its owner), refuse or quarantine (it does not count), raise (as refuse, and an error where it is logged)';
COMMENT ON COLUMN cdp.identifier_kinds.shared IS 'who has an identifier that several people use: first, newest, or anonymous (nobody: it is a profile of its own)';

REVOKE ALL ON cdp.builtin_kinds, cdp.kind_definitions, cdp.identifier_kinds FROM PUBLIC;
GRANT SELECT ON cdp.builtin_kinds, cdp.kind_definitions, cdp.identifier_kinds TO PUBLIC;
