/*-------------------------------------------------------------------------
 *
 * accounts.c
 *	  Accounts that entries name, and the evidence of membership.
 *
 *	  An entry that counts and names an account is evidence that its owner is a
 *	  member, or (type leave) is none any more.  Each is a row of
 *	  cdp.account_evidence, under the node that owns it, so merges and splits
 *	  move none.  What is withdrawn is deleted, by what the entry named as it
 *	  was read then.
 *
 *	  It all comes after the rows of nodes are written: who is one person is
 *	  then what cdp.identities says.
 *
 * IDENTIFICATION
 *	  src/apply/accounts.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "apply/accounts.h"
#include "cdp.h"
#include "statement.h"

/* Accounts that are looked at again at a time. */
#define RENEW_CHUNK 1000

/* one by one, also where it is planned before there is any account */
static CdpStatement load_accounts = {
	"SELECT a.account_id, a.identifier, a.first_seen, a.last_seen"
	" FROM (SELECT unnest($1) AS t) AS u CROSS JOIN LATERAL (SELECT i.*"
	" FROM cdp.account_identities i WHERE i.identifier = u.t::cdp.identifier OFFSET 0) a",
	{ "text[]" }
};

static CdpStatement insert_accounts = {
	"INSERT INTO cdp.account_identities (account_id, identifier, first_seen, last_seen)"
	" SELECT u.account_id, u.identifier::cdp.identifier, u.first_seen, u.last_seen"
	" FROM (SELECT unnest($1) AS account_id, unnest($2) AS identifier,"
	" unnest($3) AS first_seen, unnest($4) AS last_seen) AS u",
	{ "int8[]", "text[]", "timestamptz[]", "timestamptz[]" }
};

static CdpStatement update_seen = {
	"UPDATE cdp.account_identities a SET first_seen = u.first_seen, last_seen = u.last_seen"
	" FROM (SELECT unnest($1) AS account_id, unnest($2) AS first_seen,"
	" unnest($3) AS last_seen) AS u WHERE a.account_id = u.account_id",
	{ "int8[]", "timestamptz[]", "timestamptz[]" }
};

static CdpStatement delete_accounts = {
	"DELETE FROM cdp.account_identities a USING unnest($1) AS u (account_id)"
	" WHERE a.account_id = u.account_id",
	{ "int8[]" }
};

static CdpStatement insert_evidence = {
	"INSERT INTO cdp.account_evidence"
	" (node_id, account_id, at, tie, leaves, entry, xid, received_at)"
	" SELECT unnest($1), unnest($2), unnest($3), unnest($4), unnest($5), unnest($6),"
	" unnest($7), unnest($8)",
	{ "int8[]", "int8[]", "timestamptz[]", "text[]", "bool[]", "int8[]", "int8[]",
	  "timestamptz[]" }
};

static CdpStatement insert_pairs = {
	"INSERT INTO cdp.account_nodes (account_id, node_id)"
	" SELECT DISTINCT unnest($1), unnest($2) ON CONFLICT DO NOTHING",
	{ "int8[]", "int8[]" }
};

static CdpStatement delete_evidence = {
	"DELETE FROM cdp.account_evidence e"
	" USING (SELECT unnest($1) AS node_id, unnest($2) AS account_id, unnest($3) AS at,"
	" unnest($4) AS entry) AS u"
	" WHERE e.node_id = u.node_id AND e.account_id = u.account_id AND e.at = u.at"
	" AND e.entry = u.entry",
	{ "int8[]", "int8[]", "timestamptz[]", "int8[]" }
};

/* entries that are nobody's, whatever account they named */
static CdpStatement delete_nobodys = {
	"DELETE FROM cdp.account_evidence e USING unnest($1) AS u (entry)"
	" WHERE e.node_id = 0 AND e.entry = u.entry RETURNING e.account_id",
	{ "int8[]" }
};

static CdpStatement forget_evidence = {
	"WITH evidence AS (DELETE FROM cdp.account_evidence e USING unnest($1) AS u (node_id)"
	" WHERE e.node_id = u.node_id RETURNING e.account_id),"
	" pairs AS (DELETE FROM cdp.account_nodes n USING unnest($1) AS u (node_id)"
	" WHERE n.node_id = u.node_id AND NOT n.by_domain RETURNING n.account_id),"
	/* goes when the node does, see account_domains.c */
	" states AS (UPDATE cdp.account_nodes n SET state = NULL FROM unnest($1) AS u (node_id)"
	" WHERE n.node_id = u.node_id AND n.by_domain RETURNING n.account_id)"
	" SELECT account_id FROM evidence UNION SELECT account_id FROM pairs"
	" UNION SELECT account_id FROM states",
	{ "int8[]" }
};

static CdpStatement delete_pairs = {
	"DELETE FROM cdp.account_nodes n USING unnest($1) AS u (account_id)"
	" WHERE n.account_id = u.account_id AND n.state IS NULL AND NOT n.by_domain AND NOT EXISTS"
	" (SELECT FROM cdp.account_evidence e WHERE e.node_id = n.node_id"
	" AND e.account_id = n.account_id)",
	{ "int8[]" }
};

static CdpStatement times_of = {
	"SELECT u.account_id, min(f.at), max(l.at)"
	" FROM (SELECT unnest($1) AS account_id) AS u"
	" JOIN cdp.account_nodes n ON n.account_id = u.account_id"
	" CROSS JOIN LATERAL ((SELECT e.at FROM cdp.account_evidence e"
	" WHERE e.node_id = n.node_id AND e.account_id = n.account_id"
	" ORDER BY e.at, e.tie LIMIT 1) UNION ALL SELECT i.first_seen FROM cdp.identities i"
	" WHERE n.by_domain AND i.node_id = n.node_id) f"
	" CROSS JOIN LATERAL ((SELECT e.at FROM cdp.account_evidence e"
	" WHERE e.node_id = n.node_id AND e.account_id = n.account_id"
	" ORDER BY e.at DESC, e.tie DESC LIMIT 1) UNION ALL SELECT i.last_seen"
	" FROM cdp.identities i WHERE n.by_domain AND i.node_id = n.node_id) l"
	" GROUP BY u.account_id",
	{ "int8[]" }
};

static CdpStatement accounts_by_id = {
	"SELECT a.account_id, a.identifier, a.first_seen, a.last_seen, a.state, a.parent,"
	" a.segments, a.timer"
	" FROM (SELECT unnest($1) AS account_id) AS u"
	" JOIN cdp.account_identities a ON a.account_id = u.account_id",
	{ "int8[]" }
};

CdpAccountSet *
CdpAccountSetMake(CdpBatch *batch)
{
	CdpAccountSet *set = palloc0(sizeof(CdpAccountSet));
	HASHCTL ctl;

	set->batch = batch;
	set->context = CurrentMemoryContext;
	set->names = CdpVarlenaTable(CurrentMemoryContext, "cdp account names",
								 sizeof(CdpAccountName), 64);
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(CdpAccount);
	ctl.hcxt = CurrentMemoryContext;
	set->by_id = hash_create("cdp accounts", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.entrysize = sizeof(int64);
	set->refold = hash_create("cdp nodes of accounts", 64, &ctl,
							  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	set->traits = CdpAccountTraitSetGet(batch->applier.generation);
	for (int i = 0; i < set->traits->ntraits; i++)
	{
		CdpTrait *trait = set->traits->traits[i];

		set->computed |= trait->aggregate != CDP_AGG_DECLARED &&
			trait->aggregate != CDP_AGG_EXPRESSION && trait->member_trait == 0;
	}
	return set;
}

CdpAccount *
CdpAccountFind(CdpAccountSet *set, CdpIdentifier *identifier)
{
	CdpAccountName *name = hash_search(set->names, &identifier, HASH_FIND, NULL);

	return name == NULL ? NULL : name->account;
}

static struct varlena *
copy_varlena(MemoryContext context, const struct varlena *value)
{
	Size size = VARSIZE_ANY(value);

	return memcpy(MemoryContextAlloc(context, size), value, size);
}

static CdpAccount *
add_account(CdpAccountSet *set, int64 id, CdpIdentifier *identifier)
{
	bool found;
	CdpAccount *account = hash_search(set->by_id, &id, HASH_ENTER, &found);
	CdpAccountName *name;

	if (found)
		return account;
	memset((char *) account + sizeof(int64), 0, sizeof(CdpAccount) - sizeof(int64));
	account->identifier = identifier;
	account->first_seen = DT_NOEND;
	account->last_seen = DT_NOBEGIN;
	account->timer = DT_NOEND;
	account->cause = CDP_CAUSE_ENTRY;
	name = hash_search(set->names, &identifier, HASH_ENTER, &found);
	name->account = account;
	return account;
}

/*
 * Rows of load_accounts.
 */
static void
read_accounts(CdpAccountSet *set)
{
	for (uint64 r = 0; r < SPI_processed; r++)
	{
		CdpAccount *account = add_account(set, CdpCellInt8(r, 1),
										  CdpCellVarlena(r, 2, set->context));

		account->first_seen = CdpCellInt8(r, 3);
		account->last_seen = CdpCellInt8(r, 4);
	}
	SPI_freetuptable(SPI_tuptable);
}

CdpAccount *
CdpAccountById(CdpAccountSet *set, int64 id)
{
	return hash_search(set->by_id, &id, HASH_FIND, NULL);
}

void
CdpAccountsLoad(CdpAccountSet *set, const int64 *ids, int n)
{
	int64 *wanted = palloc(sizeof(int64) * Max(n, 1));
	int nwanted = 0;
	Datum arg;

	for (int i = 0; i < n; i++)
	{
		CdpAccount *account = CdpAccountById(set, ids[i]);

		if (account == NULL || (!account->is_new && !account->loaded))
			wanted[nwanted++] = ids[i];
	}
	if (nwanted == 0)
		return;
	arg = CdpInt8Array(wanted, nwanted);
	CdpRunHere(&accounts_by_id, &arg, NULL);
	for (uint64 r = 0; r < SPI_processed; r++)
	{
		CdpAccount *account = CdpAccountById(set, CdpCellInt8(r, 1));
		bool isnull;
		Datum value;

		if (account == NULL)
		{
			account = add_account(set, CdpCellInt8(r, 1),
								  CdpCellVarlena(r, 2, set->context));
			account->first_seen = CdpCellInt8(r, 3);
			account->last_seen = CdpCellInt8(r, 4);
		}
		if (account->loaded)
			continue;
		account->loaded = true;
		account->state = CdpCellVarlena(r, 5, set->context);
		account->parent = CdpCellVarlena(r, 6, set->context);
		value = CdpCell(r, 7, &isnull);
		if (!isnull)
		{
			ArrayType *array = (ArrayType *)
				copy_varlena(set->context, (struct varlena *) DatumGetArrayTypeP(value));

			account->nsegments = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
			account->segments = (int32 *) ARR_DATA_PTR(array);
		}
		value = CdpCell(r, 8, &isnull);
		if (!isnull)
			account->timer = DatumGetTimestampTz(value);
	}
	SPI_freetuptable(SPI_tuptable);
	pfree(wanted);
}

/*
 * The accounts that these entries name; those that nobody knows are made when
 * an entry says so now.
 */
void
CdpAccountsFind(CdpAccountSet *set, CdpNaming *namings, int n)
{
	Datum *wanted;
	Datum arg;
	int nwanted = 0;
	int max = 0;

	for (int i = 0; i < n; i++)
		max += namings[i].entry->naccounts;
	wanted = palloc(sizeof(Datum) * Max(max, 1));
	for (int i = 0; i < n; i++)
	{
		for (int j = 0; j < namings[i].entry->naccounts; j++)
		{
			bool found;
			CdpAccountName *name = hash_search(set->names, &namings[i].entry->accounts[j],
											   HASH_ENTER, &found);

			if (found)
				continue;
			name->account = NULL;
			name->identifier = (CdpIdentifier *)
				copy_varlena(set->context, (struct varlena *) name->identifier);
			wanted[nwanted++] = PointerGetDatum(name->identifier);
		}
	}
	if (nwanted > 0)
	{
		arg = CdpVarlenaArray(wanted, NULL, nwanted, TEXTOID);
		CdpRunHere(&load_accounts, &arg, NULL);
		read_accounts(set);
	}
	for (int i = 0; i < n; i++)
	{
		for (int j = 0; j < namings[i].entry->naccounts && !namings[i].gone; j++)
		{
			CdpIdentifier *identifier = namings[i].entry->accounts[j];
			CdpAccount *account = CdpAccountFind(set, identifier);
			TimestampTz at = namings[i].entry->at;

			if (account == NULL)
			{
				account = add_account(set, set->batch->graph->next_node++, identifier);
				account->is_new = true;
			}
			account->seen_changed |= at < account->first_seen || at > account->last_seen;
			account->first_seen = Min(account->first_seen, at);
			account->last_seen = Max(account->last_seen, at);
		}
	}
}

/*
 * Take the evidence of entries out that do not count any more.
 */
static void
take_out(CdpAccountSet *set, CdpNaming *namings, int n)
{
	int64 *nodes;
	int64 *accounts;
	TimestampTz *ats;
	int64 *entries;
	Datum args[4];
	int nrows = 0;
	int max = 0;

	for (int i = 0; i < n; i++)
		max += namings[i].entry->naccounts;
	nodes = palloc(sizeof(int64) * Max(max, 1));
	accounts = palloc(sizeof(int64) * Max(max, 1));
	ats = palloc(sizeof(TimestampTz) * Max(max, 1));
	entries = palloc(sizeof(int64) * Max(max, 1));
	for (int i = 0; i < n; i++)
	{
		for (int j = 0; j < namings[i].entry->naccounts && namings[i].gone; j++)
		{
			CdpAccount *account = CdpAccountFind(set, namings[i].entry->accounts[j]);

			if (account == NULL)
				continue;
			account->lost = true;
			account->nobodys |= namings[i].entry->owner == 0;
			nodes[nrows] = namings[i].entry->owner;
			accounts[nrows] = account->id;
			ats[nrows] = namings[i].entry->at;
			entries[nrows++] = namings[i].entry->id;
		}
	}
	if (nrows > 0)
	{
		args[0] = CdpInt8Array(nodes, nrows);
		args[1] = CdpInt8Array(accounts, nrows);
		args[2] = CdpTimestampArray(ats, nrows);
		args[3] = CdpInt8Array(entries, nrows);
		CdpRunHere(&delete_evidence, args, NULL);
	}
	pfree(nodes);
	pfree(accounts);
	pfree(ats);
	pfree(entries);
}

/*
 * Entries that are nobody's have no row in cdp.entries by which a change of the
 * rules would know that they counted: they come again without being withdrawn,
 * perhaps to be rejected, or as somebody's, or are gone.
 */
static void
take_out_nobodys(CdpAccountSet *set)
{
	CdpBatch *batch = set->batch;
	int nentries = batch->nentries + batch->nremoved;
	int64 *entries = palloc(sizeof(int64) * Max(nentries, 1));
	int64 *accounts;
	int naccounts;
	Datum arg;

	for (int i = 0; i < batch->nentries; i++)
		entries[i] = batch->entries[i].id;
	for (int i = 0; i < batch->nremoved; i++)
		entries[batch->nentries + i] = batch->removed[i];
	if (nentries == 0)
		return;
	arg = CdpInt8Array(entries, nentries);
	naccounts = CdpRunHere(&delete_nobodys, &arg, NULL);
	accounts = palloc(sizeof(int64) * Max(naccounts, 1));
	for (int i = 0; i < naccounts; i++)
		accounts[i] = CdpCellInt8(i, 1);
	SPI_freetuptable(SPI_tuptable);
	if (naccounts == 0)
		return;
	arg = CdpInt8Array(accounts, naccounts);
	CdpRunHere(&accounts_by_id, &arg, NULL);
	read_accounts(set);
	for (int i = 0; i < naccounts; i++)
	{
		CdpAccount *account = hash_search(set->by_id, &accounts[i], HASH_FIND, NULL);

		account->lost = true;
		account->nobodys = true;
	}
}

/*
 * Add the evidence of entries that count.
 */
static void
put_in(CdpAccountSet *set, CdpNaming *namings, int n)
{
	int max = 0;
	int nrows = 0;
	int64 *nodes;
	int64 *accounts;
	TimestampTz *ats;
	Datum *ties;
	Datum *leaves;
	int64 *entries;
	int64 *xids;
	TimestampTz *received;
	Datum args[8];

	for (int i = 0; i < n; i++)
		if (!namings[i].gone)
			max += namings[i].entry->naccounts;
	if (max == 0)
		return;
	nodes = palloc(sizeof(int64) * max);
	accounts = palloc(sizeof(int64) * max);
	ats = palloc(sizeof(TimestampTz) * max);
	ties = palloc(sizeof(Datum) * max);
	leaves = palloc(sizeof(Datum) * max);
	entries = palloc(sizeof(int64) * max);
	xids = palloc(sizeof(int64) * max);
	received = palloc(sizeof(TimestampTz) * max);
	for (int i = 0; i < n; i++)
	{
		CdpEntry *entry = namings[i].entry;

		for (int j = 0; j < entry->naccounts && !namings[i].gone; j++)
		{
			nodes[nrows] = entry->owner;
			accounts[nrows] = CdpAccountFind(set, entry->accounts[j])->id;
			ats[nrows] = entry->at;
			ties[nrows] = PointerGetDatum(entry->tie);
			leaves[nrows] = BoolGetDatum(entry->type == CDP_ENTRY_LEAVE);
			entries[nrows] = entry->id;
			xids[nrows] = entry->xid;
			received[nrows++] = entry->received_at;
		}
	}
	args[0] = CdpInt8Array(nodes, nrows);
	args[1] = CdpInt8Array(accounts, nrows);
	args[2] = CdpTimestampArray(ats, nrows);
	args[3] = CdpVarlenaArray(ties, NULL, nrows, TEXTOID);
	args[4] = PointerGetDatum(construct_array(leaves, nrows, BOOLOID, 1, true, TYPALIGN_CHAR));
	args[5] = CdpInt8Array(entries, nrows);
	args[6] = CdpInt8Array(xids, nrows);
	args[7] = CdpTimestampArray(received, nrows);
	CdpRunHere(&insert_evidence, args, NULL);
	args[0] = CdpInt8Array(accounts, nrows);
	args[1] = CdpInt8Array(nodes, nrows);
	CdpRunHere(&insert_pairs, args, NULL);
}

static int64 *
lost_accounts(CdpAccountSet *set, int *n)
{
	HASH_SEQ_STATUS seq;
	CdpAccount *account;
	int64 *ids = palloc(sizeof(int64) * Max(hash_get_num_entries(set->by_id), 1));

	*n = 0;
	hash_seq_init(&seq, set->by_id);
	while ((account = hash_seq_search(&seq)) != NULL)
		if (account->lost)
			ids[(*n)++] = account->id;
	return ids;
}

/*
 * Accounts that lost evidence: what is left of it says when they were seen.
 */
static void
renew_times(CdpAccountSet *set)
{
	int n;
	int64 *ids = lost_accounts(set, &n);
	Datum arg;

	for (int i = 0; i < n; i++)
		CdpAccountById(set, ids[i])->gone = true;
	if (n == 0)
		return;
	arg = CdpInt8Array(ids, n);
	CdpRunHere(&delete_pairs, &arg, NULL);
	CdpRunHere(&times_of, &arg, NULL);
	for (uint64 r = 0; r < SPI_processed; r++)
	{
		CdpAccount *account = CdpAccountById(set, CdpCellInt8(r, 1));

		account->gone = false;
		account->first_seen = CdpCellInt8(r, 2);
		account->last_seen = CdpCellInt8(r, 3);
		account->seen_changed = true;
	}
	SPI_freetuptable(SPI_tuptable);
}

/*
 * Nodes of somebody who is erased: their evidence goes, and what their entries
 * add up to.
 */
static void
forget_nodes(CdpAccountSet *set)
{
	CdpBatch *batch = set->batch;
	Datum arg = CdpInt8Array(batch->emptied, batch->nemptied);
	int n;
	int64 *ids;

	n = CdpRunHere(&forget_evidence, &arg, NULL);
	ids = palloc(sizeof(int64) * Max(n, 1));
	for (int i = 0; i < n; i++)
		ids[i] = CdpCellInt8(i, 1);
	SPI_freetuptable(SPI_tuptable);
	CdpAccountsLoad(set, ids, n);
	for (int i = 0; i < n; i++)
	{
		CdpAccount *account = CdpAccountById(set, ids[i]);

		if (account == NULL)
			continue;
		account->lost = true;
		account->rebuild = true;
		account->touched = true;
	}
}

/*
 * cdp.account_identities.
 */
static void
write_accounts(CdpAccountSet *set)
{
	HASH_SEQ_STATUS seq;
	CdpAccount *account;
	int max = Max(hash_get_num_entries(set->by_id), 1);
	int64 *ids = palloc(sizeof(int64) * max);
	TimestampTz *first = palloc(sizeof(TimestampTz) * max);
	TimestampTz *last = palloc(sizeof(TimestampTz) * max);
	Datum *names = palloc(sizeof(Datum) * max);
	Datum args[4];

	/* what is new, what has other times, what is gone; each once */
	for (int pass = 0; pass < 3; pass++)
	{
		int n = 0;

		hash_seq_init(&seq, set->by_id);
		while ((account = hash_seq_search(&seq)) != NULL)
		{
			if (pass == 0	  ? !account->is_new || account->gone :
					pass == 1 ? account->is_new || account->gone || !account->seen_changed :
								!account->gone || account->is_new)
				continue;
			ids[n] = account->id;
			first[n] = account->first_seen;
			last[n] = account->last_seen;
			names[n++] = PointerGetDatum(account->identifier);
			if (pass == 0)
			{
				account->is_new = false;
				account->made = true;
				account->loaded = true;
			}
			account->seen_changed = false;
		}
		if (n == 0)
			continue;
		args[0] = CdpInt8Array(ids, n);
		if (pass == 0)
		{
			args[1] = CdpVarlenaArray(names, NULL, n, TEXTOID);
			args[2] = CdpTimestampArray(first, n);
			args[3] = CdpTimestampArray(last, n);
			CdpRunHere(&insert_accounts, args, NULL);
		}
		else if (pass == 1)
		{
			args[1] = CdpTimestampArray(first, n);
			args[2] = CdpTimestampArray(last, n);
			CdpRunHere(&update_seen, args, NULL);
		}
		else
			CdpRunHere(&delete_accounts, args, NULL);
	}
}

/*
 * Outside of the batch's own entries: one counts again (a policy lets it), or
 * does not count any more.
 */
void
CdpAccountsNote(CdpBatch *batch, CdpEntry *entry, bool gone)
{
	CdpNaming *naming;

	if (entry->naccounts == 0)
		return;
	naming = palloc(sizeof(CdpNaming));
	naming->entry = entry;
	naming->gone = gone;
	batch->namings = lappend(batch->namings, naming);
}

/*
 * What the batch says of accounts.  The rows of nodes and entries are written.
 */
void
CdpAccountsApply(CdpBatch *batch)
{
	CdpNaming *namings;
	CdpAccountSet *set;
	ListCell *lc;
	int64 *lost;
	int n = 0;

	for (int i = 0; i < batch->nentries; i++)
		n += batch->entries[i].naccounts > 0;
	n += list_length(batch->namings);
	if (n == 0 && !CdpDomainsOn(batch->applier.generation) &&
		(batch->replaying || !CdpAccountsExist()))
		return;

	namings = palloc(sizeof(CdpNaming) * Max(n, 1));
	n = 0;
	foreach(lc, batch->namings)
		namings[n++] = *(CdpNaming *) lfirst(lc);
	for (int i = 0; i < batch->nentries; i++)
	{
		CdpEntry *entry = &batch->entries[i];

		if (entry->naccounts == 0 || !batch->counts[i] || entry->reject_reason != NULL ||
			entry->withheld)
			continue;
		namings[n].entry = entry;
		namings[n++].gone = false;
	}
	set = CdpAccountSetMake(batch);
	CdpAccountsFind(set, namings, n);
	take_out(set, namings, n);
	if (batch->nemptied > 0)
		forget_nodes(set);
	if (batch->rereading)
		take_out_nobodys(set);
	CdpAccountsDomains(set);
	if (!batch->replaying && set->computed)
		CdpAccountsLate(set, namings, n);
	put_in(set, namings, n);
	write_accounts(set);
	CdpStandingsForget(set);
	if (!batch->replaying)
		CdpAccountsFold(set);
	/* all columns of those that may be gone */
	lost = lost_accounts(set, &n);
	CdpAccountsLoad(set, lost, n);
	renew_times(set);
	if (!batch->replaying)
		CdpAccountsEvaluate(set);
	write_accounts(set);
}

/*
 * Definitions of accounts have changed, or the log was replayed: fold history
 * anew if asked for, and evaluate all accounts.
 */
void
CdpAccountsBackfill(CdpBatch *batch, bool refold)
{
	if (!CdpAccountsExist())
		return;
	if (refold)
		CdpAccountsRefoldAll(batch);
	CdpAccountsEvaluateAll(batch);
}

void
CdpAccountsRenew(CdpBatch *batch, const int64 *ids, int n)
{
	/* the cause of what follows is a definition */
	batch->rereading = true;
	for (int i = 0; i < n; i += RENEW_CHUNK)
	{
		int some = Min(RENEW_CHUNK, n - i);
		CdpAccountSet *set;

		CHECK_FOR_INTERRUPTS();
		set = CdpAccountSetMake(batch);
		CdpAccountsLoad(set, ids + i, some);
		for (int j = i; j < i + some; j++)
		{
			CdpAccount *account = CdpAccountById(set, ids[j]);

			if (account != NULL)
				account->lost = true;
		}
		renew_times(set);
		CdpAccountsEvaluate(set);
		write_accounts(set);
	}
	batch->rereading = false;
}
