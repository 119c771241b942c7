/*-------------------------------------------------------------------------
 *
 * account_asof.c
 *	  Accounts at earlier times: cdp.account_at().
 *
 *	  The answer is what would follow from a log that held only the entries of
 *	  then (asof.c).  Who has to do with the account is found by what names it
 *	  now, and by what named it and does not count any more; the clusters of
 *	  these people are collected, some at a time, and judged anew.  Who was one
 *	  person says who was a member when, so which entries counted for the
 *	  account; those are folded into a state that begins empty, and the members
 *	  of that time are evaluated for what they contributed.
 *
 *	  Where traits roll up, the same is done for all accounts that may ever have
 *	  been below; which of them were, their folded states tell.
 *
 * IDENTIFICATION
 *	  src/apply/account_asof.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "activate/activate.h"
#include "apply/accounts.h"
#include "apply/asof_members.h"
#include "cdp.h"
#include "statement.h"

PG_FUNCTION_INFO_V1(cdp_account_at);

/* Identifiers whose clusters are collected at a time. */
#define CHUNK 256

/*
 * The account, and those whose group calls have ever said that they are below
 * it, or below one of those; with their numbers, where they have one now.  What
 * plans leave out is not looked at: the states tell what was said.
 */
#define ACCOUNTS_BELOW(entries) \
	"WITH RECURSIVE said AS MATERIALIZED (SELECT a.account," \
	" cdp.verify_parent(jsonb_build_object('parent', a.parent), a.account) AS parent" \
	" FROM (SELECT DISTINCT cdp.canonical(i)::text AS account, g.parent" \
	" FROM (SELECT DISTINCT l.identifiers, CASE WHEN l.properties ? '$row'" \
	" THEN cdp.entry_properties(l.properties, l.source, l.id) ELSE l.properties END" \
	"->'parent' AS parent FROM (" entries ") l WHERE l.type = 'group') g" \
	" CROSS JOIN LATERAL unnest(g.identifiers) i" \
	" JOIN cdp.identifier_kinds k ON k.kind = cdp.kind(i) AND k.entity = 'account'" \
	" WHERE g.parent IS NOT NULL) a" \
	/* what names no account by the rules there are now is below none */ \
	" WHERE a.account IS NOT NULL)," \
	" below (account) AS (SELECT $1 UNION SELECT s.account FROM below b" \
	" JOIN said s ON s.parent = b.account)" \
	" SELECT b.account, a.account_id FROM below b" \
	" LEFT JOIN cdp.account_identities a ON a.identifier = b.account::cdp.identifier"

static CdpStatement accounts_below = {
	ACCOUNTS_BELOW("SELECT l.* FROM cdp.account_evidence v"
				   " JOIN cdp.events l ON l.id = v.entry AND l.xid = v.xid"
				   " AND l.received_at = v.received_at"
				   " UNION ALL SELECT l.* FROM (SELECT DISTINCT h.entry, h.xid, h.received_at"
				   " FROM cdp.history_entries h) h"
				   " JOIN cdp.events l ON l.id = h.entry AND l.xid = h.xid"
				   " AND l.received_at = h.received_at"),
	{ "text" }
};

/* what is stored of entries may be by other rules than those asked for */
static CdpStatement accounts_below_by_log = {
	ACCOUNTS_BELOW("SELECT l.* FROM cdp.events l"),
	{ "text" }
};

static CdpStatement account_number = {
	"SELECT $1, (SELECT a.account_id FROM cdp.account_identities a"
	" WHERE a.identifier = $1::cdp.identifier)",
	{ "text" }
};

/* who names these accounts, and whose address means one */
static CdpStatement bearing_names = {
	"SELECT DISTINCT i.profile_id, i.identifier"
	" FROM (SELECT unnest($1) AS account_id) AS u"
	" JOIN cdp.account_nodes n ON n.account_id = u.account_id"
	" JOIN cdp.identities i ON i.node_id = n.node_id"
	" WHERE n.by_domain OR EXISTS (SELECT FROM cdp.account_evidence v"
	" WHERE v.node_id = n.node_id AND v.account_id = n.account_id)"
	" ORDER BY i.profile_id, i.identifier",
	{ "int8[]" }
};

/* whose number is gone, and who never had one: a copy that was received later outdid all */
static CdpStatement former_addresses = {
	"SELECT DISTINCT f.identifier FROM (SELECT g.identifier FROM cdp.former_identities g"
	" UNION ALL SELECT cdp.canonical(i) FROM (SELECT DISTINCT h.entry, h.xid, h.received_at"
	" FROM cdp.history_entries h) h"
	" JOIN cdp.events l ON l.id = h.entry AND l.xid = h.xid AND l.received_at = h.received_at"
	" CROSS JOIN LATERAL unnest(l.identifiers) i) AS f"
	" WHERE cdp.email_domain(f.identifier) IS NOT NULL ORDER BY f.identifier",
	{ NULL }
};

/* An account that the question is about. */
typedef struct Account
{
	CdpIdentifier *identifier;
	int64 id; /* below zero: it has none now */
	CdpNodeAcc *acc;
	TimestampTz first_seen; /* DT_NOEND: it was not known */
	int nmembers;
} Account;

/* What is asked, and what is known of it. */
typedef struct Question
{
	CdpAsOf *asof;
	int64 generation;
	TimestampTz now; /* at which windows are looked at */
	CdpTraitSet *traits; /* of accounts */
	CdpTraitSet *member_traits; /* of profiles */
	CdpSegmentSet *segments; /* the same */
	Bitmapset *counted; /* columns of segments whose members are counted */
	bool over_members; /* some trait is */
	Account *accounts;
	int n;
	CdpAsOfPlaces *places;
	HTAB *done; /* identifiers whose clusters have been looked at */
	CdpMemberValue *values; /* what members contribute */
	int nvalues;
	int maxvalues;
	MemoryContext context; /* of what is here */
} Question;

/* An entry, by its place, that counts for an account. */
typedef struct Credit
{
	int entry;
	int place;
} Credit;

/* A person, and for what his entries count, in their order. */
typedef struct Person
{
	CdpAsOfPerson is;
	Credit *credits;
	int ncredits;
	int maxcredits;
	int *places; /* of the accounts that he is a member of in the end */
	int nplaces;
} Person;

static bool
is_asked(void *arg, CdpIdentifier *identifier, const CdpKind *kind)
{
	return CdpAsOfAskedPlace(((Question *) arg)->places, identifier, kind) >= 0;
}

/* ---- which entries counted ---- */

static void
credit(Person *person, int entry, int place)
{
	if (person->ncredits == person->maxcredits)
	{
		person->maxcredits *= 2;
		person->credits = repalloc_huge(person->credits, sizeof(Credit) * person->maxcredits);
	}
	person->credits[person->ncredits].entry = entry;
	person->credits[person->ncredits++].place = place;
}

/*
 * For which of the accounts asked for do the entries count?
 */
static void
find_credits(Question *q, Person *person)
{
	CdpAsOfPerson *is = &person->is;

	CdpAsOfPersonBegin(q->places, is);
	for (int i = 0; i < is->naddresses; i++)
	{
		Account *account = &q->accounts[is->addresses[i].place];

		account->first_seen = Min(account->first_seen, is->addresses[i].since);
	}
	person->maxcredits = 64;
	person->credits = palloc(sizeof(Credit) * person->maxcredits);
	person->places = palloc(sizeof(int) * (is->maxsaid + is->naddresses + 1));
	for (int i = 0; i < is->n; i++)
	{
		CdpEntry *entry = is->entries[i];

		CHECK_FOR_INTERRUPTS();
		/* what is said at an instant holds for all entries of that instant */
		CdpAsOfHear(q->places, is, entry->at);
		if (entry->naccounts == 0)
		{
			int n = CdpAsOfMemberships(q->places, is, entry->at, person->places);

			for (int j = 0; j < n; j++)
				credit(person, i, person->places[j]);
		}
		for (int j = 0; j < entry->naccounts; j++)
		{
			int place = CdpAsOfAskedPlace(q->places, entry->accounts[j], NULL);

			if (place < 0)
				continue;
			q->accounts[place].first_seen = Min(q->accounts[place].first_seen, entry->at);
			credit(person, i, place);
		}
	}
	person->nplaces = CdpAsOfMemberships(q->places, is, DT_NOEND, person->places);
}

/* ---- what they contributed ---- */

/*
 * Fold the entries that count into the accounts; all: and all entries into the
 * states of their owners.
 */
static void
fold_entries(Question *q, const Person *person, bool all)
{
	CdpEntry **entries = person->is.entries;
	CdpEntry **some = palloc(sizeof(CdpEntry *) * CDP_ASOF_CHUNK);
	MemoryContext context = CurrentMemoryContext;
	MemoryContext chunk = AllocSetContextCreate(context, "cdp fold", ALLOCSET_DEFAULT_SIZES);
	int next = 0;
	int i = 0;

	while (all ? i < person->is.n : next < person->ncredits)
	{
		const Credit *of = &person->credits[next];
		CdpEntry *rows;
		CdpContributions *contributions;
		int n = 0;

		CHECK_FOR_INTERRUPTS();
		for (; n < CDP_ASOF_CHUNK && (all ? i < person->is.n : next < person->ncredits); n++)
		{
			if (!all)
				i = person->credits[next].entry;
			some[n] = entries[i];
			while (next < person->ncredits && person->credits[next].entry == i)
				next++;
			i++;
		}
		MemoryContextSwitchTo(chunk);
		rows = CdpAsOfReadWhole(q->asof, some, n);
		if (all)
			CdpAsOfFold(q->member_traits, rows, n);
		contributions = palloc0(sizeof(CdpContributions) * n);
		CdpTraitsEvaluate(q->traits, NULL, rows, n, contributions);
		for (int r = 0; of < person->credits + next; of++)
		{
			while (some[r] != entries[of->entry])
				r++;
			/* what is declared is declared of the accounts that are named */
			if (contributions[r].n > 0 || some[r]->naccounts > 0)
				CdpNodeFold(q->accounts[of->place].acc, &rows[r], &contributions[r], true);
		}
		MemoryContextSwitchTo(context);
		MemoryContextReset(chunk);
	}
	MemoryContextDelete(chunk);
	pfree(some);
}

/*
 * Keep what a profile contributes to an account.
 */
static void
contribute(Question *q, int64 account, const CdpProfileEval *profile)
{
	for (int t = 0; t < q->traits->ntraits; t++)
	{
		int32 member_trait = q->traits->traits[t]->member_trait;
		struct NumericData *value = NULL;
		bool known;
		MemoryContext old;

		if (member_trait != 0)
			value = CdpMemberContributes(q->member_traits, member_trait, &profile->values,
										 profile->after, profile->nafter);
		/* several traits of accounts may be over one of members */
		known = value == NULL;
		for (int before = 0; before < t && !known; before++)
			known = q->traits->traits[before]->member_trait == member_trait;
		if (known)
			continue;
		old = MemoryContextSwitchTo(q->context);
		if (q->nvalues == q->maxvalues)
		{
			q->maxvalues *= 2;
			q->values = repalloc_huge(q->values, sizeof(CdpMemberValue) * q->maxvalues);
		}
		q->values[q->nvalues].account = account;
		q->values[q->nvalues].member_trait = member_trait;
		q->values[q->nvalues++].value = (struct NumericData *)
			PG_DETOAST_DATUM_COPY(PointerGetDatum(value));
		MemoryContextSwitchTo(old);
	}
}

/*
 * Evaluate a member, whose nodes have their states.
 */
static void
evaluate_member(Question *q, const Person *person, const CdpProfileNodes *nodes)
{
	CdpProfileEval eval = { 0 };

	eval.identifiers = palloc(sizeof(CdpIdentifier *) * Max(nodes->nnodes, 1));
	for (int i = 0; i < nodes->nnodes; i++)
		eval.identifiers[eval.nidentifiers++] = nodes->nodes[i].identifier;
	CdpProfileEvaluate(q->member_traits, nodes->accs, nodes->nnodes, q->now, &eval.values);
	if (q->counted != NULL)
	{
		eval.profile_id = CdpAsOfNumber(person->is.root);
		CdpSegmentsEvaluateSome(q->segments, &eval, 1, q->now, q->counted, false);
	}
	for (int i = 0; i < person->nplaces; i++)
		contribute(q, q->accounts[person->places[i]].id, &eval);
}

static void
take_person(Question *q, Person *person)
{
	CdpProfileNodes nodes;
	bool all;

	find_credits(q, person);
	for (int i = 0; i < person->nplaces; i++)
		q->accounts[person->places[i]].nmembers++;
	all = q->over_members && person->nplaces > 0;
	if (all)
		CdpAsOfOpen(person->is.root, q->member_traits, &nodes);
	fold_entries(q, person, all);
	if (all)
		evaluate_member(q, person, &nodes);
}

/* ---- what was collected ---- */

static int
by_root(const void *a, const void *b)
{
	CdpEntry *x = *(CdpEntry *const *) a;
	CdpEntry *y = *(CdpEntry *const *) b;
	CdpNode *r = CdpNodeRoot(x->owner_node);
	CdpNode *s = CdpNodeRoot(y->owner_node);

	return r != s ? CdpCompareInt8(&r->id, &s->id) : CdpEntryCompare(x, y);
}

static int
roots_by_number(const void *a, const void *b)
{
	return CdpCompareInt8(&(*(CdpNode *const *) a)->id, &(*(CdpNode *const *) b)->id);
}

/*
 * Entries that are nobody's count for the accounts that they name.
 */
static void
take_nobodys(Question *q, CdpEntry **entries, int n)
{
	Person nobody = { .is = { .entries = entries, .n = n } };

	qsort(entries, n, sizeof(CdpEntry *), CdpAsOfByOrder);
	find_credits(q, &nobody);
	fold_entries(q, &nobody, false);
}

/*
 * Has the person been looked at?  Clusters that are collected later may lead to
 * him by what nothing of his own leads to: a copy of an entry of somebody else.
 */
static bool
is_done(Question *q, CdpNode *root)
{
	CdpNode *node = root;

	do
	{
		if (hash_search(q->done, &node->identifier, HASH_FIND, NULL) != NULL)
			return true;
		node = node->next;
	} while (node != root);
	return false;
}

/*
 * The people who were collected, and their entries.
 */
static void
take_people(Question *q, CdpEntry **entries, int n)
{
	CdpGraph *graph = q->asof->graph;
	CdpNode **roots = palloc(sizeof(CdpNode *) * Max(graph->nactive, 1));
	int nroots = 0;
	int next = 0;
	MemoryContext context = CurrentMemoryContext;
	MemoryContext own = AllocSetContextCreate(context, "cdp person", ALLOCSET_DEFAULT_SIZES);

	for (int i = 0; i < graph->nactive; i++)
		if (CdpNodeRoot(graph->active[i]) == graph->active[i])
			roots[nroots++] = graph->active[i];
	qsort(roots, nroots, sizeof(CdpNode *), roots_by_number);
	qsort(entries, n, sizeof(CdpEntry *), by_root);
	CdpAsOfPeople(q->places, roots, nroots);
	for (int i = 0; i < nroots; i++)
	{
		Person person = { .is = { .root = roots[i], .entries = entries + next } };

		while (next < n && CdpNodeRoot(entries[next]->owner_node) == roots[i])
			next++;
		person.is.n = (int) (entries + next - person.is.entries);
		if (is_done(q, roots[i]))
			continue;
		MemoryContextSwitchTo(own);
		take_person(q, &person);
		MemoryContextSwitchTo(context);
		MemoryContextReset(own);
	}
	CdpAsOfPeopleDone(q->places);
	MemoryContextDelete(own);
}

/*
 * What has been collected, and that it has been looked at.
 */
static void
take_collected(Question *q)
{
	CdpAsOf *asof = q->asof;
	CdpEntry **entries;
	CdpEntry **nobodys;
	int n;
	int nowned = 0;
	int nnobodys = 0;

	entries = CdpAsOfCounting(asof, &n);
	CdpGraphReplayDirty(asof->graph);
	CdpAsOfJudge(asof, entries, n);
	nobodys = palloc(sizeof(CdpEntry *) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		if (entries[i]->withheld)
			continue;
		if (entries[i]->owner != 0)
			entries[nowned++] = entries[i];
		else if (entries[i]->naccounts > 0)
		{
			/* which is not that nobody has asked */
			entries[i]->owner = -1;
			nobodys[nnobodys++] = entries[i];
		}
	}
	take_people(q, entries, nowned);
	take_nobodys(q, nobodys, nnobodys);

	for (int i = 0; i < asof->graph->nactive; i++)
	{
		CdpNode *node = asof->graph->active[i];
		Size size = VARSIZE_ANY(node->identifier);
		CdpIdentifier **done;
		bool found;

		if (!CdpAsOfKnows(asof, node))
			continue;
		done = hash_search(q->done, &node->identifier, HASH_ENTER, &found);
		if (!found)
			*done = memcpy(MemoryContextAlloc(q->context, size), node->identifier, size);
	}
}

/* ---- the question ---- */

/*
 * The account asked for, first, and those that may be below it.
 */
static void
find_accounts(Question *q, CdpIdentifier *identifier)
{
	Datum arg = PointerGetDatum(identifier);
	CdpStatement *statement = &account_number;

	for (int i = 0; i < q->traits->ntraits; i++)
		if (q->traits->traits[i]->rollup)
			statement = q->asof->by_index ? &accounts_below : &accounts_below_by_log;
	q->n = (int) CdpRunHere(statement, &arg, NULL);
	q->accounts = palloc0(sizeof(Account) * q->n);
	q->places = CdpAsOfPlacesMake(q->asof, q->generation, q->n);
	(void) CdpAsOfPlace(q->places, identifier);
	for (int i = 0; i < q->n; i++)
	{
		CdpIdentifier *found = CdpCellVarlena(i, 1, CurrentMemoryContext);
		int place = CdpAsOfPlace(q->places, found);
		Account *account = &q->accounts[place];
		bool isnull;
		Datum id = CdpCell(i, 2, &isnull);

		account->identifier = found;
		account->id = isnull ? -1 - place : DatumGetInt64(id);
		account->acc = CdpNodeOpen(q->traits, NULL);
		account->first_seen = DT_NOEND;
	}
	SPI_freetuptable(SPI_tuptable);
}

/*
 * Identifiers of people who may have been members, but for those that entries
 * lead to which do not count now.
 */
static List *
find_names(Question *q, int64 *ids, int n)
{
	Datum arg = CdpInt8Array(ids, n);
	List *names = NIL;

	CdpRunHere(&bearing_names, &arg, NULL);
	for (uint64 r = 0; r < SPI_processed; r++)
		names = lappend(names, CdpCellVarlena(r, 2, CurrentMemoryContext));
	SPI_freetuptable(SPI_tuptable);
	if (!CdpDomainsOn(q->generation) && q->places->change.position >= q->places->change.upto)
		return names;
	CdpRunHere(&former_addresses, NULL, NULL);
	for (uint64 r = 0; r < SPI_processed; r++)
		names = lappend(names, CdpCellVarlena(r, 1, CurrentMemoryContext));
	SPI_freetuptable(SPI_tuptable);
	return names;
}

/*
 * Collect the clusters around the next of these identifiers.
 */
static void
collect_some(Question *q, List *names, int *next)
{
	CdpNode **starts = palloc(sizeof(CdpNode *) * CHUNK);
	int n = 0;

	CdpAsOfEmpty(q->asof);
	for (; *next < list_length(names) && n < CHUNK; (*next)++)
	{
		CdpIdentifier *identifier = list_nth(names, *next);
		CdpIdentifier *canonical;
		CdpKind *kind;

		if (hash_search(q->done, &identifier, HASH_FIND, NULL) != NULL)
			continue;
		(void) CdpCanonicalise(q->asof->kinds, identifier, &canonical, &kind);
		if (canonical != NULL)
			starts[n++] = CdpAsOfNode(q->asof, canonical, kind);
	}
	CdpAsOfCollect(q->asof, starts, n);
}

static void
collect(Question *q)
{
	int64 *ids = palloc(sizeof(int64) * q->n);
	int64 *hashes = palloc(sizeof(int64) * q->n);
	MemoryContext chunk = AllocSetContextCreate(q->context, "cdp account as of",
												ALLOCSET_DEFAULT_SIZES);
	List *names = NIL;
	int next = 0;

	for (int i = 0; i < q->n; i++)
	{
		ids[i] = q->accounts[i].id;
		hashes[i] = CdpIdentifierHash(q->accounts[i].identifier);
	}
	q->done = CdpVarlenaTable(q->context, "cdp done", sizeof(CdpIdentifier *), 256);
	if (q->asof->by_index)
		names = find_names(q, ids, q->n);
	q->asof->wanted = is_asked;
	q->asof->wanted_arg = q;
	for (bool first = true; first || next < list_length(names); first = false)
	{
		MemoryContextSwitchTo(chunk);
		if (first)
		{
			CdpAsOfEmpty(q->asof);
			CdpAsOfCollectNaming(q->asof, ids, q->n, hashes, q->n);
		}
		else
			collect_some(q, names, &next);
		take_collected(q);
		MemoryContextSwitchTo(q->context);
		MemoryContextReset(chunk);
		q->asof->wanted = NULL;
	}
	MemoryContextDelete(chunk);
}

/*
 * The account that was asked for, with what those below it had.
 */
static CdpAccountRow
make_row(Question *q)
{
	CdpAccountRow row = { 0 };
	int *parents = palloc(sizeof(int) * q->n); /* places; -1: none of these */
	int *below = palloc(sizeof(int) * q->n);
	bool *is_below = palloc0(sizeof(bool) * q->n);
	int64 *ids = palloc(sizeof(int64) * q->n);
	CdpNodeAcc **accs = palloc(sizeof(CdpNodeAcc *) * q->n);
	int n = 1;

	for (int i = 0; i < q->n; i++)
	{
		CdpIdentifier *parent;

		row.identifier = (struct varlena *) q->accounts[i].identifier;
		row.acc = q->accounts[i].acc;
		parent = CdpAccountParent(q->asof->kinds, &row);
		if (i == 0)
			row.parent = (struct varlena *) parent;
		parents[i] = parent != NULL ? CdpAsOfAskedPlace(q->places, parent, NULL) : -1;
	}
	below[0] = 0;
	is_below[0] = true;
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		for (int j = 0; j < q->n; j++)
			if (!is_below[j] && parents[j] == below[i])
			{
				is_below[j] = true;
				below[n++] = j;
			}
	}
	for (int i = 1; i < n; i++)
	{
		ids[i - 1] = q->accounts[below[i]].id;
		accs[i - 1] = q->accounts[below[i]].acc;
	}

	row.id = q->accounts[0].id;
	row.identifier = (struct varlena *) q->accounts[0].identifier;
	row.acc = q->accounts[0].acc;
	row.first_seen = q->accounts[0].first_seen;
	row.last_seen = DT_NOBEGIN; /* of then is not told */
	CdpAccountValues(q->traits, &row, ids, accs, n - 1, q->values, q->nvalues, q->now);
	return row;
}

static void
ask(Question *q, CdpAsOf *asof, CdpIdentifier *account)
{
	TimestampTz applied;

	memset(q, 0, sizeof(Question));
	q->context = CurrentMemoryContext;
	q->asof = asof;
	q->generation = CdpApplierGlance(&applied);
	q->now = TIMESTAMP_NOT_FINITE(asof->at) ? CdpReadInstant(applied) : asof->at;
	q->traits = CdpAccountTraitSetGet(q->generation);
	q->member_traits = CdpTraitSetGet(q->generation);
	q->segments = CdpSegmentSetGet(q->generation, q->member_traits);
	q->maxvalues = 64;
	q->values = palloc(sizeof(CdpMemberValue) * q->maxvalues);
	for (int i = 0; i < q->traits->ntraits; i++)
	{
		int32 member_trait = q->traits->traits[i]->member_trait;
		int column = member_trait < 0 ? CdpSegmentColumn(q->segments, -member_trait) : -1;

		q->over_members |= member_trait != 0;
		if (column >= 0)
			q->counted = bms_add_member(q->counted, column);
	}
	find_accounts(q, account);
	collect(q);
}

bool
CdpAsOfAccountValues(CdpAsOf *asof, CdpIdentifier *account, CdpProfileValues *values)
{
	Question q;

	ask(&q, asof, account);
	if (q.accounts[0].first_seen == DT_NOEND)
		return false;
	*values = make_row(&q).values;
	return true;
}

static Jsonb *
read_account_at(FunctionCallInfo fcinfo)
{
	CdpIdentifier *raw = PG_GETARG_IDENTIFIER_PP(0);
	CdpAsOf *asof = CdpAsOfBegin(PG_ARGISNULL(1) ? DT_NOEND : PG_GETARG_TIMESTAMPTZ(1),
								 PG_ARGISNULL(2) ? DT_NOEND : PG_GETARG_TIMESTAMPTZ(2));
	CdpIdentifier *canonical;
	CdpKind *kind;
	CdpAccountRow row;
	Question q;

	CdpAsOfCheckKind(asof, raw);
	if (CdpCanonicalise(asof->kinds, raw, &canonical, &kind) != CDP_CANONICAL_ACCOUNT)
		return NULL;
	ask(&q, asof, canonical);
	if (q.accounts[0].first_seen == DT_NOEND)
		return NULL;
	row = make_row(&q);
	return CdpAccountJson(q.generation, &row, q.now, q.accounts[0].nmembers);
}

/*
 * cdp.account_at(account, at, known_at) returns jsonb: the account that
 * cdp.account() would have shown then.
 */
Datum
cdp_account_at(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	return CdpAsOfJson(fcinfo, read_account_at);
}
