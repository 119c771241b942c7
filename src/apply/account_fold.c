/*-------------------------------------------------------------------------
 *
 * account_fold.c
 *	  What entries add up to for accounts.
 *
 *	  An entry counts for the accounts that it names; one that names none, for
 *	  those that its owner's profile, as it is known now, was a member of then.
 *	  What the entries of one node add up to for one account is kept in
 *	  cdp.account_nodes, and their sum with the account: an entry that comes is
 *	  added to both, whatever the account's size.
 *
 *	  When it changes who was a member when (late evidence, a merge or split
 *	  with a node that has evidence, an entry that is withdrawn), the entries of
 *	  the nodes that it may matter to are folded anew.  What is only added by
 *	  that is added to the account, too; else its nodes are combined anew.
 *
 * IDENTIFICATION
 *	  src/apply/account_fold.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/qunique.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "apply/accounts.h"
#include "cdp.h"
#include "statement.h"

/* Nodes that are worked on at a time. */
#define CHUNK_NODES 1000

static CdpStatement load_pairs = {
	"SELECT n.account_id, n.node_id, n.state"
	" FROM (SELECT unnest($1) AS account_id, unnest($2) AS node_id) AS u"
	" JOIN cdp.account_nodes n ON n.account_id = u.account_id AND n.node_id = u.node_id",
	{ "int8[]", "int8[]" }
};

static CdpStatement load_nodes = {
	"SELECT n.account_id, n.node_id, n.state"
	" FROM (SELECT unnest($1) AS node_id) AS u"
	" JOIN cdp.account_nodes n ON n.node_id = u.node_id",
	{ "int8[]" }
};

static CdpStatement write_pairs = {
	"INSERT INTO cdp.account_nodes AS n (account_id, node_id, state)"
	" SELECT unnest($1), unnest($2), unnest($3)"
	" ON CONFLICT (account_id, node_id) DO UPDATE SET state = excluded.state",
	{ "int8[]", "int8[]", "node_state[]" }
};

static CdpStatement write_states = {
	"UPDATE cdp.account_identities a SET state = u.state"
	" FROM (SELECT unnest($1) AS account_id, unnest($2) AS state) AS u"
	" WHERE a.account_id = u.account_id",
	{ "int8[]", "node_state[]" }
};

static CdpStatement states_of = {
	"SELECT n.state FROM cdp.account_nodes n WHERE n.account_id = $1 AND n.state IS NOT NULL",
	{ "int8" }
};

static CdpStatement next_nodes = {
	"SELECT DISTINCT j.node_id FROM (SELECT DISTINCT i.profile_id"
	" FROM cdp.account_nodes n JOIN cdp.identities i ON i.node_id = n.node_id) p"
	" JOIN cdp.identities j ON j.profile_id = p.profile_id ORDER BY j.node_id",
	{ NULL }
};

static CdpStatement nobodys_accounts = {
	"SELECT n.account_id FROM cdp.account_nodes n WHERE n.node_id = 0 ORDER BY 1",
	{ NULL }
};

/* What a node's entries add up to for an account; hash entry. */
typedef struct Pair
{
	int64 account; /* hash key, with node */
	int64 node;
	struct varlena *state; /* as the row has it */
	bool anew; /* begins with nothing */
	struct varlena *work; /* anew: what it is so far, but for acc */
	CdpNodeAcc *acc; /* NULL: not open */
} Pair;

/* ---- contributions ---- */

static HTAB *
make_pairs(void)
{
	HASHCTL ctl;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = 2 * sizeof(int64);
	ctl.entrysize = sizeof(Pair);
	ctl.hcxt = CurrentMemoryContext;
	return hash_create("cdp account nodes", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static Pair *
pair_of(HTAB *pairs, int64 account, int64 node, bool anew)
{
	int64 key[2] = { account, node };
	bool found;
	Pair *pair = hash_search(pairs, key, HASH_ENTER, &found);

	if (!found)
	{
		pair->state = NULL;
		pair->anew = anew;
		pair->work = NULL;
		pair->acc = NULL;
	}
	return pair;
}

static void
read_pairs(HTAB *pairs, bool anew)
{
	for (uint64 r = 0; r < SPI_processed; r++)
	{
		Pair *pair = pair_of(pairs, CdpCellInt8(r, 1), CdpCellInt8(r, 2), anew);

		pair->state = CdpCellVarlena(r, 3, CurrentMemoryContext);
	}
	SPI_freetuptable(SPI_tuptable);
}

static CdpNodeAcc *
account_acc(CdpAccountSet *set, CdpAccount *account)
{
	if (account->acc == NULL)
		account->acc = CdpNodeOpen(set->traits, account->state);
	account->folded = true;
	account->touched = true;
	return account->acc;
}

static void
load_credited(CdpAccountSet *set, CdpCredit *found, int n)
{
	int64 *ids = palloc(sizeof(int64) * Max(n, 1));

	for (int i = 0; i < n; i++)
		ids[i] = found[i].account;
	qsort(ids, n, sizeof(int64), CdpCompareInt8);
	CdpAccountsLoad(set, ids, qunique(ids, n, sizeof(int64), CdpCompareInt8));
	pfree(ids);
}

/*
 * Fold entries into the pairs of their owners and accounts; new: the accounts
 * have not got them yet.
 */
static void
fold_credits(CdpAccountSet *set, HTAB *pairs, CdpEntry *entries,
			 CdpContributions *contributions, CdpCredit *found, int n, bool new)
{
	for (int i = 0; i < n; i++)
	{
		CdpEntry *entry = &entries[found[i].entry];
		Pair *pair = pair_of(pairs, found[i].account, Max(entry->owner, 0), !new);

		CHECK_FOR_INTERRUPTS();
		if (pair->acc == NULL)
			pair->acc = CdpNodeOpen(set->traits, pair->anew ? pair->work : pair->state);
		CdpNodeFold(pair->acc, entry, &contributions[found[i].entry], true);
		if (new)
			CdpNodeFold(account_acc(set, CdpAccountById(set, found[i].account)), entry,
						&contributions[found[i].entry], true);
	}
}

static bool
same_state(const struct varlena *a, const struct varlena *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

/*
 * cdp.account_nodes.
 */
static void
write_all_pairs(CdpAccountSet *set, HTAB *pairs)
{
	TimestampTz clock = set->batch->applier.clock;
	long max = Max(hash_get_num_entries(pairs), 1);
	int64 *accounts = palloc(sizeof(int64) * max);
	int64 *nodes = palloc(sizeof(int64) * max);
	Datum *states = palloc(sizeof(Datum) * max);
	bool *nulls = palloc(sizeof(bool) * max);
	int n = 0;
	HASH_SEQ_STATUS seq;
	Pair *pair;
	Datum args[3];

	hash_seq_init(&seq, pairs);
	while ((pair = hash_seq_search(&seq)) != NULL)
	{
		struct varlena *state;

		if (!pair->anew && pair->acc == NULL)
			continue;
		state = pair->anew ? pair->work : CdpNodeClose(pair->acc, clock);
		if (pair->anew)
		{
			CdpAccount *account = CdpAccountById(set, pair->account);

			if (same_state(state, pair->state))
				continue;
			if (pair->state == NULL)
				CdpNodeCombine(account_acc(set, account), CdpNodeOpen(set->traits, state));
			else
			{
				account->rebuild = true;
				account->touched = true;
				account->lost |= state == NULL; /* perhaps the pair goes */
			}
		}
		accounts[n] = pair->account;
		nodes[n] = pair->node;
		nulls[n] = state == NULL;
		states[n++] = PointerGetDatum(state);
	}
	if (n == 0)
		return;
	args[0] = CdpInt8Array(accounts, n);
	args[1] = CdpInt8Array(nodes, n);
	args[2] = CdpVarlenaArray(states, nulls, n, CdpTypeOid("node_state"));
	CdpRunHere(&write_pairs, args, NULL);
}

/*
 * Put the states of pairs away, into the context that is current, so that what
 * they were made of can go.
 */
static void
close_pairs(CdpAccountSet *set, HTAB *pairs)
{
	HASH_SEQ_STATUS seq;
	Pair *pair;

	hash_seq_init(&seq, pairs);
	while ((pair = hash_seq_search(&seq)) != NULL)
	{
		struct varlena *closed;
		struct varlena *old = pair->work;

		if (pair->acc == NULL)
			continue;
		closed = CdpNodeClose(pair->acc, set->batch->applier.clock);
		pair->work = memcpy(palloc(VARSIZE_ANY(closed)), closed, VARSIZE_ANY(closed));
		pair->acc = NULL;
		if (old != NULL)
			pfree(old);
	}
}

/*
 * Fold all entries that a statement yields, into pairs that begin with nothing.
 */
static void
refold(CdpAccountSet *set, HTAB *pairs, CdpStatement *statement, int64 *ids, int n)
{
	CdpCreditScan scan = { .batch = set->batch, .shared = set };

	CdpCreditScanBegin(&scan, statement, ids, n);
	while (CdpCreditScanNext(&scan))
	{
		load_credited(set, scan.found, scan.nfound);
		fold_credits(set, pairs, scan.entries, scan.contributions, scan.found, scan.nfound, false);

		/* what lives on is not this chunk's */
		MemoryContextSwitchTo(scan.context);
		close_pairs(set, pairs);
	}
	CdpCreditScanEnd(&scan);
}

/*
 * Fold the entries of nodes anew, and those that are nobody's of accounts.
 */
static void
refold_nodes(CdpAccountSet *set, int64 *nodes, int nnodes, int64 *accounts, int naccounts)
{
	HTAB *pairs = make_pairs();
	int64 *ids;
	HASH_SEQ_STATUS seq;
	Pair *pair;
	int n = 0;
	Datum args[2];

	if (nnodes > 0)
	{
		args[0] = CdpInt8Array(nodes, nnodes);
		CdpRunHere(&load_nodes, args, NULL);
		read_pairs(pairs, true);
	}
	if (naccounts > 0)
	{
		qsort(accounts, naccounts, sizeof(int64), CdpCompareInt8);
		args[0] = CdpInt8Array(accounts, naccounts);
		args[1] = CdpInt8Array(palloc0(sizeof(int64) * naccounts), naccounts);
		CdpRunHere(&load_pairs, args, NULL);
		read_pairs(pairs, true);
	}
	if (nnodes > 0)
		refold(set, pairs, &CdpOwnedEntries, nodes, nnodes);
	if (naccounts > 0)
		refold(set, pairs, &CdpNobodysEntries, accounts, naccounts);

	ids = palloc(sizeof(int64) * Max(hash_get_num_entries(pairs), 1));
	hash_seq_init(&seq, pairs);
	while ((pair = hash_seq_search(&seq)) != NULL)
		ids[n++] = pair->account;
	CdpAccountsLoad(set, ids, n);
	write_all_pairs(set, pairs);
}

/*
 * The states of all nodes of an account as one.
 */
static void
combine_nodes(CdpAccountSet *set, CdpAccount *account)
{
	TimestampTz clock = set->batch->applier.clock;
	Datum arg = Int64GetDatum(account->id);
	MemoryContext context = CurrentMemoryContext;
	MemoryContext chunk = AllocSetContextCreate(context, "cdp account combination",
												ALLOCSET_DEFAULT_SIZES);
	struct varlena *closed = NULL;
	Portal portal;

	CdpPrepare(&states_of);
	portal = SPI_cursor_open(NULL, states_of.plan, &arg, NULL, false);
	MemoryContextSwitchTo(context);
	for (;;)
	{
		CdpNodeAcc *acc;
		struct varlena *next;

		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(chunk);
		if (CdpFetchHere(portal, CHUNK_NODES) == 0)
			break;
		acc = CdpNodeOpen(set->traits, closed);
		for (uint64 r = 0; r < SPI_processed; r++)
			CdpNodeCombine(acc, CdpNodeOpen(set->traits, CdpCellVarlena(r, 1, chunk)));
		SPI_freetuptable(SPI_tuptable);
		next = CdpNodeClose(acc, clock);
		MemoryContextSwitchTo(context);
		next = memcpy(palloc(VARSIZE_ANY(next)), next, VARSIZE_ANY(next));
		if (closed != NULL)
			pfree(closed);
		closed = next;
		MemoryContextReset(chunk);
	}
	MemoryContextSwitchTo(context);
	SPI_cursor_close(portal);
	MemoryContextDelete(chunk);
	account->acc = CdpNodeOpen(set->traits, closed);
	account->folded = true;
	account->new_state = closed;
	account->rebuild = false;
}

/*
 * The states of accounts that have got something, or lost it.
 */
static void
write_accounts(CdpAccountSet *set)
{
	long max = Max(hash_get_num_entries(set->by_id), 1);
	int64 *ids = palloc(sizeof(int64) * max);
	Datum *states = palloc(sizeof(Datum) * max);
	bool *nulls = palloc(sizeof(bool) * max);
	int n = 0;
	HASH_SEQ_STATUS seq;
	CdpAccount *account;
	Datum args[2];

	/* combining loads no accounts */
	hash_seq_init(&seq, set->by_id);
	while ((account = hash_seq_search(&seq)) != NULL)
	{
		if (account->rebuild)
			combine_nodes(set, account);
		else if (account->folded)
			account->new_state = CdpNodeClose(account->acc, set->batch->applier.clock);
		else
			continue;
		ids[n] = account->id;
		nulls[n] = account->new_state == NULL;
		states[n++] = PointerGetDatum(account->new_state);
	}
	if (n == 0)
		return;
	args[0] = CdpInt8Array(ids, n);
	args[1] = CdpVarlenaArray(states, nulls, n, CdpTypeOid("node_state"));
	CdpRunHere(&write_states, args, NULL);
}

/*
 * Add what entries contribute to what is stored of their owners and accounts.
 */
static void
add_credits(CdpAccountSet *set, CdpEntry *entries, CdpContributions *contributions,
			CdpCredit *found, int n)
{
	HTAB *pairs;
	int64 *accounts;
	int64 *nodes;
	Datum args[2];

	if (n == 0)
		return;
	load_credited(set, found, n);
	accounts = palloc(sizeof(int64) * n);
	nodes = palloc(sizeof(int64) * n);
	for (int i = 0; i < n; i++)
	{
		accounts[i] = found[i].account;
		nodes[i] = Max(entries[found[i].entry].owner, 0);
	}
	args[0] = CdpInt8Array(accounts, n);
	args[1] = CdpInt8Array(nodes, n);
	CdpRunHere(&load_pairs, args, NULL);
	pairs = make_pairs();
	read_pairs(pairs, false);
	fold_credits(set, pairs, entries, contributions, found, n, true);
	write_all_pairs(set, pairs);
}

int64
CdpAccountsBuild(CdpBatch *batch, Bitmapset *only, int64 *ids, int n, bool nobodys)
{
	CdpCreditScan scan = { .batch = batch, .only = only };

	CdpCreditScanBegin(&scan, nobodys ? &CdpNobodysEntries : &CdpOwnedEntries, ids, n);
	while (CdpCreditScanNext(&scan))
	{
		int nfound = CdpCreditsContributing(scan.found, scan.nfound, scan.contributions);

		add_credits(scan.set, scan.entries, scan.contributions, scan.found, nfound);
		write_accounts(scan.set);
	}
	CdpCreditScanEnd(&scan);
	return scan.total;
}

/*
 * The entries of the batch that are not of nodes which are folded anew.
 */
static void
fold_batch(CdpAccountSet *set)
{
	CdpBatch *batch = set->batch;
	CdpEntry *entries = palloc(sizeof(CdpEntry) * Max(batch->nentries, 1));
	CdpContributions *contributions;
	CdpCredit *found;
	int nfound;
	int n = 0;

	for (int i = 0; i < batch->nentries; i++)
	{
		CdpEntry *entry = &batch->entries[i];

		if (!batch->counts[i] || entry->reject_reason != NULL || entry->withheld ||
			(entry->naccounts == 0 && !set->computed) ||
			hash_search(set->refold, &entry->owner, HASH_FIND, NULL) != NULL ||
			CdpRefoldIsDeferred(batch, entry->owner))
			continue;
		entries[n] = *entry;
		if (entry->owner == 0)
		{
			bool anew = false;

			for (int j = 0; j < entry->naccounts; j++)
				anew |= CdpAccountFind(set, entry->accounts[j])->nobodys;
			if (anew || entry->naccounts == 0)
				continue;
			entries[n].owner = -1;
		}
		n++;
	}
	entries = CdpNobodysPart(set, entries, &n);
	if (n == 0)
		return;
	contributions = palloc0(sizeof(CdpContributions) * n);
	CdpTraitsEvaluate(set->traits, NULL, entries, n, contributions);
	found = CdpCreditsFind(set, entries, n, contributions, &nfound);
	add_credits(set, entries, contributions, found, nfound);
}

/*
 * What the batch adds to accounts, or takes away.  The evidence is written.
 */
void
CdpAccountsFold(CdpAccountSet *set)
{
	CdpBatch *batch = set->batch;
	HASH_SEQ_STATUS seq;
	CdpAccount *account;
	int64 *node;
	int64 *nodes;
	int64 *accounts;
	int nnodes = 0;
	int naccounts = 0;
	ListCell *lc;

	if (set->computed)
		CdpAccountsMoved(set);
	foreach(lc, batch->refolded)
	{
		int64 id = *(int64 *) lfirst(lc);
		CdpNode *owner = CdpGraphNode(batch->graph, id);

		/* a node that is gone has no entries left: then only its pairs go */
		if (owner != NULL)
			(void) hash_search(set->refold, &id, HASH_ENTER, NULL);
	}

	/* an entry that is nobody's is folded anew with all that its accounts have */
	for (bool more = true; more;)
	{
		more = false;
		for (int i = 0; i < batch->nentries; i++)
		{
			CdpEntry *entry = &batch->entries[i];
			bool anew = false;

			if (entry->owner != 0 || !batch->counts[i] || entry->reject_reason != NULL)
				continue;
			for (int j = 0; j < entry->naccounts; j++)
				anew |= CdpAccountFind(set, entry->accounts[j])->nobodys;
			for (int j = 0; j < entry->naccounts && anew; j++)
			{
				account = CdpAccountFind(set, entry->accounts[j]);
				more |= !account->nobodys;
				account->nobodys = true;
			}
		}
	}
	fold_batch(set);

	nodes = palloc(sizeof(int64) * Max(hash_get_num_entries(set->refold), 1));
	hash_seq_init(&seq, set->refold);
	while ((node = hash_seq_search(&seq)) != NULL)
		nodes[nnodes++] = *node;
	accounts = palloc(sizeof(int64) * Max(hash_get_num_entries(set->by_id), 1));
	hash_seq_init(&seq, set->by_id);
	while ((account = hash_seq_search(&seq)) != NULL)
		if (account->nobodys)
			accounts[naccounts++] = account->id;
	if (nnodes > 0 || naccounts > 0)
		refold_nodes(set, nodes, nnodes, accounts, naccounts);
	write_accounts(set);
}

/*
 * All states of all accounts, from the entries that count.
 */
void
CdpAccountsRefoldAll(CdpBatch *batch)
{
	static const char *const forget[] = {
		"UPDATE cdp.account_nodes SET state = NULL WHERE state IS NOT NULL",
		"UPDATE cdp.account_identities SET state = NULL WHERE state IS NOT NULL"
	};
	MemoryContext context = CurrentMemoryContext;
	MemoryContext chunk = AllocSetContextCreate(context, "cdp all accounts",
												ALLOCSET_DEFAULT_SIZES);

	for (int i = 0; i < lengthof(forget); i++)
		if (SPI_execute(forget[i], false, 0) < 0)
			elog(ERROR, "could not forget the states of accounts");
	MemoryContextSwitchTo(context);
	for (int pass = 0; pass < 2; pass++)
	{
		CdpStatement *statement = pass == 0 ? &next_nodes : &nobodys_accounts;
		int64 *ids;
		int n = CdpRunHere(statement, NULL, NULL);

		ids = palloc(sizeof(int64) * Max(n, 1));
		for (int i = 0; i < n; i++)
			ids[i] = CdpCellInt8(i, 1);
		SPI_freetuptable(SPI_tuptable);
		for (int i = 0; i < n; i += CHUNK_NODES)
		{
			CdpAccountSet *set;
			int some = Min(CHUNK_NODES, n - i);

			MemoryContextSwitchTo(chunk);
			set = CdpAccountSetMake(batch);
			if (pass == 0)
				refold_nodes(set, ids + i, some, NULL, 0);
			else
				refold_nodes(set, NULL, 0, ids + i, some);
			write_accounts(set);
			MemoryContextSwitchTo(context);
			MemoryContextReset(chunk);
		}
		pfree(ids);
	}
	MemoryContextDelete(chunk);
}
