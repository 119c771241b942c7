/*-------------------------------------------------------------------------
 *
 * account_domains.c
 *	  Accounts by the domains of addresses of e-mail.
 *
 *	  When cdp.account_by_domain() says so, every address of e-mail whose domain
 *	  is not that of a provider of free mail makes its profile a member of the
 *	  account of that domain, from when the address was first seen.  That the
 *	  node has to do with the account stands in cdp.account_nodes.by_domain; when
 *	  it was first seen the node's own row tells.  CDP_MEMBERSHIPS says when such
 *	  a membership holds.  How history follows a change: domain_change.c.
 *
 * IDENTIFICATION
 *	  src/apply/account_domains.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "apply/accounts.h"
#include "cdp.h"
#include "statement.h"

static CdpStatement load_kind = {
	"SELECT d.kind FROM cdp.domain_accounts d",
	{ NULL }
};

static CdpStatement load_free = {
	"SELECT f.domain FROM cdp.free_mail_domains f",
	{ NULL }
};

static CdpStatement insert_pairs = {
	"INSERT INTO cdp.account_nodes AS n (account_id, node_id, by_domain)"
	" SELECT unnest($1), unnest($2), true"
	" ON CONFLICT (account_id, node_id) DO UPDATE SET by_domain = true WHERE NOT n.by_domain",
	{ "int8[]", "int8[]" }
};

static CdpStatement clear_pairs = {
	"UPDATE cdp.account_nodes n SET by_domain = false"
	" FROM (SELECT unnest($1) AS account_id, unnest($2) AS node_id) AS u"
	" WHERE n.account_id = u.account_id AND n.node_id = u.node_id AND n.by_domain",
	{ "int8[]", "int8[]" }
};

/* what the domains of addresses meant that a change has not reached */
static CdpStatement accounts_so_far = {
	"SELECT u.node_id, (SELECT a.identifier FROM cdp.account_identities a"
	" WHERE a.account_id = n.account_id) FROM (SELECT unnest($1) AS node_id) AS u"
	" CROSS JOIN LATERAL (SELECT m.account_id FROM cdp.account_nodes m"
	" WHERE m.node_id = u.node_id AND m.by_domain OFFSET 0) n ORDER BY u.node_id",
	{ "int8[]" }
};

/* what cdp.account_nodes should have, from the rows of nodes */
#define WANTED \
	"WITH wanted AS MATERIALIZED (SELECT i.node_id, i.first_seen, i.last_seen," \
	" cdp.canonical(cdp.identifier(d.kind, cdp.email_domain(i.identifier))) AS account" \
	" FROM cdp.domain_accounts d CROSS JOIN cdp.identities i" \
	" JOIN cdp.identifier_kinds k ON k.kind = cdp.kind(i.identifier) AND k.normaliser = 'email'" \
	" WHERE NOT EXISTS (SELECT FROM cdp.free_mail_domains f" \
	" WHERE f.domain = cdp.email_domain(i.identifier)))"

static CdpStatement mark_accounts = {
	WANTED ", new AS (SELECT w.account, min(w.first_seen) AS first_seen,"
		   " max(w.last_seen) AS last_seen FROM wanted w WHERE w.account IS NOT NULL AND NOT EXISTS"
		   " (SELECT FROM cdp.account_identities a WHERE a.identifier = w.account) GROUP BY w.account)"
		   " INSERT INTO cdp.account_identities (account_id, identifier, first_seen, last_seen)"
		   " SELECT $1 + row_number() OVER (ORDER BY n.first_seen, n.account) - 1, n.account,"
		   " n.first_seen, n.last_seen FROM new n",
	{ "int8" }
};

static CdpStatement mark_pairs = {
	WANTED ", pairs AS (SELECT a.account_id, w.node_id FROM wanted w"
		   " JOIN cdp.account_identities a ON a.identifier = w.account),"
		   " come AS (INSERT INTO cdp.account_nodes AS n (account_id, node_id, by_domain)"
		   " SELECT p.account_id, p.node_id, true FROM pairs p"
		   " ON CONFLICT (account_id, node_id) DO UPDATE SET by_domain = true WHERE NOT n.by_domain"
		   " RETURNING n.account_id),"
		   " go AS (UPDATE cdp.account_nodes n SET by_domain = false WHERE n.by_domain AND NOT EXISTS"
		   " (SELECT FROM pairs p WHERE p.account_id = n.account_id AND p.node_id = n.node_id)"
		   " RETURNING n.account_id)"
		   " SELECT account_id FROM come UNION SELECT account_id FROM go ORDER BY 1",
	{ NULL }
};

/* A domain; hash key of the set of those of free mail. */
typedef struct Domain
{
	const char *name;
	int len;
} Domain;

/* What is in force, as of a generation of the definitions. */
static struct
{
	MemoryContext context; /* NULL: nothing is loaded */
	int64 generation;
	char *kind; /* of the accounts; NULL: there are none by domain */
	HTAB *free; /* Domain */
} settings;

static uint32
domain_hash(const void *key, Size keysize)
{
	const Domain *domain = key;

	return hash_bytes((const unsigned char *) domain->name, domain->len);
}

static int
domain_match(const void *a, const void *b, Size keysize)
{
	const Domain *x = a;
	const Domain *y = b;

	return x->len == y->len ? memcmp(x->name, y->name, x->len) : 1;
}

static void
load_settings(int64 generation)
{
	/* who asks may be reading rows */
	SPITupleTable *tuptable = SPI_tuptable;
	uint64 processed = SPI_processed;
	MemoryContext old;
	HASHCTL ctl;
	bool isnull;

	if (settings.context != NULL && settings.generation == generation)
		return;
	if (settings.context == NULL)
		settings.context = AllocSetContextCreate(TopMemoryContext, "cdp domains",
												 ALLOCSET_SMALL_SIZES);
	MemoryContextReset(settings.context);
	settings.kind = NULL;
	settings.free = NULL;
	settings.generation = -1;
	old = MemoryContextSwitchTo(settings.context);
	if (CdpRunHere(&load_kind, NULL, NULL) > 0)
		settings.kind = TextDatumGetCString(CdpCell(0, 1, &isnull));
	SPI_freetuptable(SPI_tuptable);
	if (settings.kind != NULL)
	{
		memset(&ctl, 0, sizeof(ctl));
		ctl.keysize = ctl.entrysize = sizeof(Domain);
		ctl.hash = domain_hash;
		ctl.match = domain_match;
		ctl.hcxt = settings.context;
		settings.free = hash_create("cdp free mail", 256, &ctl,
									HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
		CdpRunHere(&load_free, NULL, NULL);
		for (uint64 r = 0; r < SPI_processed; r++)
		{
			Domain domain;

			domain.name = TextDatumGetCString(CdpCell(r, 1, &isnull));
			domain.len = strlen(domain.name);
			(void) hash_search(settings.free, &domain, HASH_ENTER, NULL);
		}
		SPI_freetuptable(SPI_tuptable);
	}
	MemoryContextSwitchTo(old);
	settings.generation = generation;
	SPI_tuptable = tuptable;
	SPI_processed = processed;
}

bool
CdpDomainsOn(int64 generation)
{
	load_settings(generation);
	return settings.kind != NULL;
}

CdpIdentifier *
CdpDomainAccount(CdpKindSet *kinds, int64 generation, const CdpIdentifier *address)
{
	const char *end = VARDATA_ANY(address) + VARSIZE_ANY_EXHDR(address);
	const char *domain = end;
	Domain key;

	load_settings(generation);
	if (settings.kind == NULL)
		return NULL;
	while (domain > VARDATA_ANY(address) && domain[-1] != '@')
		domain--;
	key.name = domain;
	key.len = end - domain;
	if (domain == VARDATA_ANY(address) ||
		hash_search(settings.free, &key, HASH_FIND, NULL) != NULL)
		return NULL;
	return CdpAccountIdentifier(kinds, domain, end - domain, settings.kind,
								strlen(settings.kind));
}

/* An address of the batch, and what happened to it. */
typedef struct Address
{
	CdpNode *node;
	CdpIdentifier *account; /* NULL: as it has been so far */
	CdpEntry seen[2]; /* stand for entries that name the account: first, last */
	bool comes; /* is not in cdp.account_nodes yet */
} Address;

/*
 * What the domains meant of addresses that a change has not reached; those that
 * meant nothing go.
 */
static int
read_accounts_so_far(Address *addresses, int n, int nsofar)
{
	int64 *nodes = palloc(sizeof(int64) * Max(nsofar, 1));
	CdpNumbered *sofar = palloc(sizeof(CdpNumbered) * Max(nsofar, 1));
	int kept = 0;
	int next = 0;
	Datum arg;

	if (nsofar == 0)
		return n;
	nsofar = 0;
	for (int i = 0; i < n; i++)
	{
		if (addresses[i].account != NULL)
			continue;
		sofar[nsofar].number = nodes[nsofar] = addresses[i].node->id;
		sofar[nsofar].then = 0;
		sofar[nsofar++].item = &addresses[i];
	}
	CdpNumberedSort(sofar, nsofar);
	arg = CdpInt8Array(nodes, nsofar);
	CdpRunHere(&accounts_so_far, &arg, NULL);
	for (uint64 r = 0; r < SPI_processed; r++)
	{
		while (sofar[next].number < CdpCellInt8(r, 1))
			next++;
		((Address *) sofar[next].item)->account = CdpCellVarlena(r, 2, CurrentMemoryContext);
	}
	SPI_freetuptable(SPI_tuptable);
	for (int i = 0; i < n; i++)
		if (addresses[i].account != NULL)
			addresses[kept++] = addresses[i];
	return kept;
}

/*
 * The addresses that the batch brings, sees at other times, or loses.
 */
static Address *
find_addresses(CdpBatch *batch, const CdpDomainChange *change, int *n)
{
	CdpGraph *graph = batch->graph;
	Address *addresses = NULL;
	int max = 0;
	int nsofar = 0;

	*n = 0;
	for (int i = 0; i < graph->nactive; i++)
	{
		CdpNode *node = graph->active[i];
		CdpIdentifier *account = NULL;
		Address *address;
		bool reached = node->id <= change->position || node->id > change->upto;

		if (!node->kind->email || (node->is_new && node->is_gone) ||
			(!node->is_new && !node->is_gone &&
			 node->first_seen == node->disk_first_seen &&
			 node->last_seen == node->disk_last_seen))
			continue;
		if (reached)
			account = CdpDomainAccount(batch->kinds, batch->applier.generation, node->identifier);
		else
			nsofar++;
		if (reached && account == NULL)
			continue;
		if (*n == max)
		{
			max = Max(64, 2 * max);
			addresses = addresses == NULL ? palloc(sizeof(Address) * max) : repalloc(addresses, sizeof(Address) * max);
		}
		address = &addresses[(*n)++];
		memset(address, 0, sizeof(Address));
		address->node = node;
		/* a replay begins with nodes that nobody has seen */
		address->comes = node->is_new || node->disk_first_seen == DT_NOEND;
		address->account = account;
	}
	*n = read_accounts_so_far(addresses, *n, nsofar);
	for (int i = 0; i < *n; i++)
	{
		for (int j = 0; j < 2; j++)
		{
			addresses[i].seen[j].accounts = &addresses[i].account;
			addresses[i].seen[j].naccounts = 1;
		}
		addresses[i].seen[0].at = addresses[i].node->first_seen;
		addresses[i].seen[1].at = addresses[i].node->last_seen;
	}
	return addresses;
}

void
CdpDomainsWrite(int64 *from, int64 *from_nodes, int nfrom, int64 *to, int64 *to_nodes, int nto)
{
	Datum args[2];

	if (nfrom > 0)
	{
		args[0] = CdpInt8Array(from, nfrom);
		args[1] = CdpInt8Array(from_nodes, nfrom);
		CdpRunHere(&clear_pairs, args, NULL);
	}
	if (nto > 0)
	{
		args[0] = CdpInt8Array(to, nto);
		args[1] = CdpInt8Array(to_nodes, nto);
		CdpRunHere(&insert_pairs, args, NULL);
	}
}

/*
 * The accounts of the addresses that the batch brings or loses.  The rows of
 * nodes are written.
 */
void
CdpAccountsDomains(CdpAccountSet *set)
{
	Address *addresses;
	CdpNaming *namings;
	int64 *accounts[2]; /* that get an address, that lose one */
	int64 *nodes[2];
	int npairs[2] = { 0, 0 };
	int64 *profiles;
	TimestampTz *since;
	int64 *lost;
	int nprofiles = 0;
	int nlost = 0;
	int n;
	CdpDomainChange change = { .position = PG_INT64_MAX };

	if (set->batch->applier.backfills && !set->batch->replaying)
		(void) CdpDomainsChanging(&change);
	if (set->batch->exchanges != NIL)
		CdpDomainsExchange(set);
	if (!CdpDomainsOn(set->batch->applier.generation) && change.position >= change.upto)
		return;
	addresses = find_addresses(set->batch, &change, &n);
	if (n == 0)
		return;
	namings = palloc(sizeof(CdpNaming) * 2 * n);
	for (int i = 0; i < 2 * n; i++)
	{
		namings[i].entry = &addresses[i / 2].seen[i % 2];
		namings[i].gone = addresses[i / 2].node->is_gone;
	}
	CdpAccountsFind(set, namings, 2 * n);

	for (int i = 0; i < 2; i++)
	{
		accounts[i] = palloc(sizeof(int64) * n);
		nodes[i] = palloc(sizeof(int64) * n);
	}
	profiles = palloc(sizeof(int64) * n);
	since = palloc(sizeof(TimestampTz) * n);
	lost = palloc(sizeof(int64) * 2 * n);
	for (int i = 0; i < n; i++)
	{
		CdpNode *node = addresses[i].node;
		CdpAccount *account = CdpAccountFind(set, addresses[i].seen[0].accounts[0]);
		int goes = node->is_gone;

		if (account == NULL)
			continue;
		if (goes || addresses[i].comes)
		{
			accounts[goes][npairs[goes]] = account->id;
			nodes[goes][npairs[goes]++] = node->id;
		}
		if (goes || (!addresses[i].comes && (node->first_seen > node->disk_first_seen || node->last_seen < node->disk_last_seen)))
			account->lost = true;
		if (!goes && node->first_seen < node->disk_first_seen)
		{
			profiles[nprofiles] = node->profile;
			since[nprofiles++] = node->first_seen;
		}
		else if (goes || node->first_seen > node->disk_first_seen)
		{
			lost[nlost++] = node->profile;
			lost[nlost++] = node->old_profile;
		}
	}
	CdpDomainsWrite(accounts[1], nodes[1], npairs[1], accounts[0], nodes[0], npairs[0]);
	if (!set->batch->replaying && set->computed)
		CdpAccountsLateDomains(set, profiles, since, nprofiles, lost, nlost);
}

/*
 * Have cdp.account_nodes say what the setting says now.
 */
int64 *
CdpDomainsMark(CdpBatch *batch, int *n)
{
	Datum arg = Int64GetDatum(batch->applier.next_node);
	int64 *accounts;

	batch->applier.next_node += CdpRunHere(&mark_accounts, &arg, NULL);
	*n = CdpRunHere(&mark_pairs, NULL, NULL);
	accounts = palloc(sizeof(int64) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
		accounts[i] = CdpCellInt8(i, 1);
	SPI_freetuptable(SPI_tuptable);
	return accounts;
}
