/*-------------------------------------------------------------------------
 *
 * account_evaluate.c
 *	  Accounts as a batch leaves them: what members contribute, values, parents,
 *	  segments, timers, and what changed.
 *
 *	  An account is evaluated when something was folded into it, when a member
 *	  came, left or contributes something else, when its timer is due, and when
 *	  that happened below it and some trait rolls up.
 *
 * IDENTIFICATION
 *	  src/apply/account_evaluate.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/qunique.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

#include "apply/accounts.h"
#include "cdp.h"
#include "statement.h"

#define CHUNK 1000

/* also where it is planned before any member has contributed anything */
static CdpStatement values_of = {
	"SELECT v.account_id, v.trait_id, v.profile_id, v.value"
	" FROM (SELECT unnest($1) AS profile_id) AS u CROSS JOIN LATERAL"
	" (SELECT w.* FROM cdp.account_values w WHERE w.profile_id = u.profile_id OFFSET 0) v",
	{ "int8[]" }
};

/*
 * By profile: without statistics the planner would rather read what all members
 * contribute to the trait, as it takes two columns for more choosy than one.
 */
static CdpStatement delete_values = {
	"DELETE FROM cdp.account_values v"
	" USING (SELECT unnest($1) AS account_id, unnest($2) AS trait_id,"
	" unnest($3) AS profile_id) AS u"
	" WHERE v.profile_id = u.profile_id AND v.account_id IS NOT DISTINCT FROM u.account_id"
	" AND v.trait_id IS NOT DISTINCT FROM u.trait_id",
	{ "int8[]", "int4[]", "int8[]" }
};

static CdpStatement insert_values = {
	"INSERT INTO cdp.account_values (account_id, trait_id, profile_id, value)"
	" SELECT unnest($1), unnest($2), unnest($3), unnest($4)",
	{ "int8[]", "int4[]", "int8[]", "numeric[]" }
};

static CdpStatement add_totals = {
	"INSERT INTO cdp.account_totals AS t (account_id, trait_id, n, total)"
	" SELECT unnest($1), unnest($2), unnest($3), unnest($4)"
	" ON CONFLICT (account_id, trait_id) DO UPDATE"
	" SET n = t.n + excluded.n, total = t.total + excluded.total",
	{ "int8[]", "int4[]", "int8[]", "numeric[]" }
};

static CdpStatement above = {
	"WITH RECURSIVE up (account_id, parent) AS ("
	" SELECT a.account_id, a.parent FROM (SELECT unnest($1) AS account_id) AS u"
	" JOIN cdp.account_identities a ON a.account_id = u.account_id"
	" UNION SELECT p.account_id, p.parent"
	" FROM up JOIN cdp.account_identities p ON p.identifier = up.parent)"
	" SELECT account_id FROM up",
	{ "int8[]" }
};

static CdpStatement by_name = {
	"SELECT a.account_id FROM (SELECT unnest($1) AS t) AS u"
	" JOIN cdp.account_identities a ON a.identifier = u.t::cdp.identifier",
	{ "text[]" }
};

static CdpStatement due_accounts = {
	"SELECT a.account_id FROM (SELECT unnest($1) AS account_id) AS u"
	" JOIN cdp.account_identities a ON a.account_id = u.account_id",
	{ "int8[]" }
};

static CdpStatement update_parents = {
	"UPDATE cdp.account_identities a SET parent = u.parent::cdp.identifier"
	" FROM (SELECT unnest($1) AS account_id, unnest($2) AS parent) AS u"
	" WHERE a.account_id = u.account_id",
	{ "int8[]", "text[]" }
};

static CdpStatement update_accounts = {
	"UPDATE cdp.account_identities a SET segments = u.segments::int[],"
	" timer = nullif(u.timer, 'infinity')"
	" FROM (SELECT unnest($1) AS account_id, unnest($2) AS segments,"
	" unnest($3) AS timer) AS u WHERE a.account_id = u.account_id",
	{ "int8[]", "text[]", "timestamptz[]" }
};

static CdpStatement upsert_timers = {
	"INSERT INTO cdp.timers AS t (profile_id, at) SELECT unnest($1), unnest($2)"
	" ON CONFLICT (profile_id) DO UPDATE SET at = excluded.at",
	{ "int8[]", "timestamptz[]" }
};

static CdpStatement delete_timers = {
	"DELETE FROM cdp.timers t USING unnest($1) AS u (id) WHERE t.profile_id = u.id",
	{ "int8[]" }
};

static CdpStatement delete_totals = {
	"DELETE FROM cdp.account_totals t USING unnest($1) AS u (id) WHERE t.account_id = u.id",
	{ "int8[]" }
};

static CdpStatement next_accounts = {
	"SELECT a.account_id FROM cdp.account_identities a WHERE a.account_id > $1"
	" ORDER BY a.account_id LIMIT $2",
	{ "int8", "int8" }
};

/* Numbers of accounts, each once. */
typedef struct Ids
{
	int n;
	int max;
	int64 *ids;
} Ids;

static void
add_id(Ids *list, int64 id)
{
	if (list->n == list->max)
	{
		list->max = Max(64, 2 * list->max);
		list->ids = list->ids == NULL ? palloc(sizeof(int64) * list->max) : repalloc(list->ids, sizeof(int64) * list->max);
	}
	list->ids[list->n++] = id;
}

static void
sort_ids(Ids *list)
{
	if (list->n < 2)
		return;
	qsort(list->ids, list->n, sizeof(int64), CdpCompareInt8);
	list->n = qunique(list->ids, list->n, sizeof(int64), CdpCompareInt8);
}

static bool
has_id(const Ids *list, int64 id)
{
	return list->n > 0 &&
		bsearch(&id, list->ids, list->n, sizeof(int64), CdpCompareInt8) != NULL;
}

/* The ids in the first column of what has been run. */
static void
add_result(Ids *list)
{
	for (uint64 r = 0; r < SPI_processed; r++)
		add_id(list, CdpCellInt8(r, 1));
	SPI_freetuptable(SPI_tuptable);
}

/* ---- what members contribute ---- */

typedef struct Contribution
{
	int64 account; /* hash key, all three */
	int64 trait;
	int64 profile;
	Numeric before; /* NULL: nothing */
	Numeric after;
} Contribution;

typedef struct Change
{
	int64 account; /* hash key, with trait */
	int64 trait;
	int64 n;
	Numeric total;
} Change;

static HTAB *
make_table(const char *name, int nkeys, Size entrysize)
{
	HASHCTL ctl;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = nkeys * sizeof(int64);
	ctl.entrysize = entrysize;
	ctl.hcxt = CurrentMemoryContext;
	return hash_create(name, 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static Contribution *
contribution_of(HTAB *table, int64 account, int64 trait, int64 profile)
{
	int64 key[3] = { account, trait, profile };
	bool found;
	Contribution *contribution = hash_search(table, key, HASH_ENTER, &found);

	if (!found)
		contribution->before = contribution->after = NULL;
	return contribution;
}

static void
count_change(HTAB *changes, Contribution *c, Numeric value, int sign)
{
	int64 key[2] = { c->account, c->trait };
	bool found;
	Change *change = hash_search(changes, key, HASH_ENTER, &found);

	if (!found)
	{
		change->n = 0;
		change->total = int64_to_numeric(0);
	}
	change->n += sign;
	change->total = DatumGetNumeric(DirectFunctionCall2(sign > 0 ? numeric_add : numeric_sub,
														NumericGetDatum(change->total),
														NumericGetDatum(value)));
}

static int
compare_profiles(const void *a, const void *b)
{
	int64 x = *(const int64 *) a;
	int64 y = (*(CdpProfile *const *) b)->id;

	return x < y ? -1 : x > y ? 1 :
								0;
}

/*
 * cdp.account_values and cdp.account_totals.
 */
static void
write_contributions(HTAB *table, Ids *touched)
{
	long max = Max(hash_get_num_entries(table), 1);
	HTAB *changes = make_table("cdp totals", 2, sizeof(Change));
	HASH_SEQ_STATUS seq;
	Contribution *c;
	Change *change;
	int64 *accounts = palloc(sizeof(int64) * max);
	int32 *traits = palloc(sizeof(int32) * max);
	int64 *profiles = palloc(sizeof(int64) * max);
	Datum *values = palloc(sizeof(Datum) * max);
	Datum args[4];
	int n;

	for (int pass = 0; pass < 2; pass++)
	{
		n = 0;
		hash_seq_init(&seq, table);
		while ((c = hash_seq_search(&seq)) != NULL)
		{
			Numeric value = pass == 0 ? c->before : c->after;

			if (value == NULL ||
				(c->before != NULL && c->after != NULL &&
				 DatumGetBool(DirectFunctionCall2(numeric_eq, NumericGetDatum(c->before),
												  NumericGetDatum(c->after)))))
				continue;
			count_change(changes, c, value, pass == 0 ? -1 : 1);
			add_id(touched, c->account);
			accounts[n] = c->account;
			traits[n] = (int32) c->trait;
			profiles[n] = c->profile;
			values[n++] = NumericGetDatum(value);
		}
		if (n == 0)
			continue;
		args[0] = CdpInt8Array(accounts, n);
		args[1] = CdpInt4Array(traits, n);
		args[2] = CdpInt8Array(profiles, n);
		args[3] = CdpVarlenaArray(values, NULL, n, NUMERICOID);
		CdpRunHere(pass == 0 ? &delete_values : &insert_values, args, NULL);
	}
	n = 0;
	hash_seq_init(&seq, changes);
	while ((change = hash_seq_search(&seq)) != NULL)
	{
		accounts[n] = change->account;
		traits[n] = (int32) change->trait;
		profiles[n] = change->n;
		values[n++] = NumericGetDatum(change->total);
	}
	if (n > 0)
	{
		args[0] = CdpInt8Array(accounts, n);
		args[1] = CdpInt4Array(traits, n);
		args[2] = CdpInt8Array(profiles, n);
		args[3] = CdpVarlenaArray(values, NULL, n, NUMERICOID);
		CdpRunHere(&add_totals, args, NULL);
	}
}

/*
 * What the profiles that were evaluated contribute to their accounts, and what
 * former ones do no more.
 */
static void
member_values(CdpBatch *batch, CdpAccountSet *set, Ids *touched)
{
	CdpTraitSet *accounts = set->traits;
	CdpGraph *graph = batch->graph;
	HTAB *table = make_table("cdp contributions", 3, sizeof(Contribution));
	Ids profiles = { 0 };
	Ids now = { 0 };
	Datum arg;

	for (int i = 0; i < batch->nprofiles; i++)
		if (batch->profiles[i]->values.values != NULL)
		{
			add_id(&profiles, batch->profiles[i]->id);
			add_id(&now, batch->profiles[i]->id);
		}
	for (int i = 0; i < graph->nactive; i++)
	{
		CdpNode *node = graph->active[i];

		if (node->old_profile == node->id && (node->is_gone || node->profile != node->id))
			add_id(&profiles, node->id);
	}
	if (profiles.n == 0)
		return;
	sort_ids(&profiles);
	arg = CdpInt8Array(profiles.ids, profiles.n);
	CdpRunHere(&values_of, &arg, NULL);
	for (uint64 r = 0; r < SPI_processed; r++)
	{
		bool isnull;

		contribution_of(table, CdpCellInt8(r, 1), DatumGetInt32(CdpCell(r, 2, &isnull)),
						CdpCellInt8(r, 3))
			->before =
			(Numeric) CdpCellVarlena(r, 4, CurrentMemoryContext);
	}
	SPI_freetuptable(SPI_tuptable);

	CdpStandingsAsk(set, now.ids, now.n);
	for (int i = 0; i < now.n; i++)
	{
		CdpStanding *standing = CdpStandingOf(set, now.ids[i]);
		CdpProfile **profile = bsearch(&now.ids[i], batch->profiles, batch->nprofiles,
									   sizeof(CdpProfile *), compare_profiles);

		for (int t = 0; standing->n > 0 && t < accounts->ntraits; t++)
		{
			int32 member = accounts->traits[t]->member_trait;
			Numeric value = member == 0 ? NULL :
										  CdpMemberContributes(batch->traits, member, &(*profile)->values,
															   (*profile)->node->new_segments,
															   (*profile)->node->nnew_segments);

			for (int j = 0; value != NULL && j < standing->n; j++)
				contribution_of(table, standing->accounts[j], member, now.ids[i])->after = value;
		}
	}
	write_contributions(table, touched);
}

static bool
has_member_traits(CdpTraitSet *accounts)
{
	for (int t = 0; t < accounts->ntraits; t++)
		if (accounts->traits[t]->member_trait != 0)
			return true;
	return false;
}

/*
 * Is there anything that follows from the segments that members are in?
 */
bool
CdpAccountsOverSegments(CdpBatch *batch)
{
	CdpTraitSet *accounts = CdpAccountTraitSetGet(batch->applier.generation);

	for (int t = 0; t < accounts->ntraits; t++)
		if (accounts->traits[t]->member_trait < 0)
			return true;
	return false;
}

/*
 * Is there anything that follows from the traits of members?
 */
bool
CdpAccountsOverMembers(CdpBatch *batch)
{
	return CdpAccountsExist() &&
		has_member_traits(CdpAccountTraitSetGet(batch->applier.generation));
}

/*
 * The same for profiles that are evaluated for a definition.
 */
void
CdpAccountsMemberValues(CdpBatch *batch)
{
	Ids touched = { 0 };

	if (CdpAccountsOverMembers(batch))
		member_values(batch, CdpAccountSetMake(batch), &touched);
}

/* ---- evaluation ---- */

CdpIdentifier *
CdpAccountParent(CdpKindSet *kinds, CdpAccountRow *row)
{
	Jsonb *value = CdpNodeDeclaredValue(row->acc, "parent");
	JsonbValue v;

	if (value == NULL || !JB_ROOT_IS_SCALAR(value) || !JsonbExtractScalar(&value->root, &v) ||
		(v.type != jbvString && v.type != jbvNumeric))
		return NULL;
	if (v.type == jbvNumeric)
	{
		v.val.string.val = DatumGetCString(DirectFunctionCall1(numeric_out,
															   NumericGetDatum(v.val.numeric)));
		v.val.string.len = strlen(v.val.string.val);
	}
	return CdpAccountIdentifier(kinds, v.val.string.val, v.val.string.len,
								VARDATA_ANY(row->identifier),
								CdpIdentifierKindLength(row->identifier));
}

/*
 * The parents that the declared trait of that name says; accounts whose
 * parent is another one now are told apart.
 */
static void
renew_parents(CdpBatch *batch, CdpAccountRow *rows, int n, bool rollup, Ids *touched)
{
	int64 *ids = palloc(sizeof(int64) * Max(n, 1));
	Datum *parents = palloc(sizeof(Datum) * Max(n, 1));
	bool *nulls = palloc(sizeof(bool) * Max(n, 1));
	Datum *names = palloc(sizeof(Datum) * 2 * Max(n, 1));
	int nnames = 0;
	int nchanged = 0;
	Datum args[2];

	for (int i = 0; i < n; i++)
	{
		CdpIdentifier *parent = CdpAccountParent(batch->kinds, &rows[i]);

		if (parent == NULL ? rows[i].parent == NULL :
							 rows[i].parent != NULL && CdpVarlenaMatch(&parent, &rows[i].parent, 0) == 0)
			continue;
		ids[nchanged] = rows[i].id;
		nulls[nchanged] = parent == NULL;
		parents[nchanged++] = PointerGetDatum(parent);
		if (parent != NULL)
			names[nnames++] = PointerGetDatum(parent);
		if (rows[i].parent != NULL)
			names[nnames++] = PointerGetDatum(rows[i].parent);
	}
	if (nchanged == 0)
		return;
	if (rollup && nnames > 0)
	{
		/* who lost it, or got it */
		args[0] = CdpVarlenaArray(names, NULL, nnames, TEXTOID);
		CdpRunHere(&by_name, args, NULL);
		add_result(touched);
		sort_ids(touched);
	}
	args[0] = CdpInt8Array(ids, nchanged);
	args[1] = CdpVarlenaArray(parents, nulls, nchanged, TEXTOID);
	CdpRunHere(&update_parents, args, NULL);
}

static Datum
segments_text(const int32 *segments, int n)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoChar(&buf, '{');
	for (int i = 0; i < n; i++)
		appendStringInfo(&buf, "%s%d", i > 0 ? "," : "", segments[i]);
	appendStringInfoChar(&buf, '}');
	return PointerGetDatum(cstring_to_text_with_len(buf.data, buf.len));
}

/* Passages of a batch, and the changes that tell of them. */
typedef struct Passages
{
	CdpPassage *entered;
	CdpPassage *left;
	int nentered;
	int nleft;
} Passages;

static void
pass(CdpBatch *batch, CdpSegmentSet *segments, Passages *passages, int32 segment_id,
	 int64 account, bool enters, CdpCause cause, TimestampTz at)
{
	CdpSegment *segment = CdpSegmentById(segments, segment_id);

	if (segment == NULL)
		return;
	if (enters)
		CdpPassageAdd(batch, passages->entered, &passages->nentered, segment, account, true,
					  cause, at);
	else
		CdpPassageAdd(batch, passages->left, &passages->nleft, segment, account, false,
					  cause, at);
	batch->changes.items[batch->changes.n - 1].entity = "account";
}

/*
 * Accounts that no entry names any more leave their segments.
 */
static void
leave(CdpBatch *batch, CdpAccountSet *set, CdpSegmentSet *segments, Passages *passages)
{
	HASH_SEQ_STATUS seq;
	CdpAccount *account;
	Ids gone = { 0 };
	Datum arg;

	hash_seq_init(&seq, set->by_id);
	while ((account = hash_seq_search(&seq)) != NULL)
	{
		if (!account->gone || account->is_new)
			continue;
		add_id(&gone, account->id);
		for (int i = 0; i < account->nsegments; i++)
			pass(batch, segments, passages, account->segments[i], account->id, false,
				 batch->erasing									 ? CDP_CAUSE_ERASURE :
					 batch->rereading || batch->exchanges != NIL ? CDP_CAUSE_DEFINITION :
																   CDP_CAUSE_RETRACTION,
				 batch->applier.clock);
	}
	if (gone.n == 0)
		return;
	arg = CdpInt8Array(gone.ids, gone.n);
	CdpRunHere(&delete_timers, &arg, NULL);
	CdpRunHere(&delete_totals, &arg, NULL);
}

/*
 * Values, parents, segments and timers of these accounts.
 */
static void
evaluate(CdpBatch *batch, CdpTraitSet *traits, CdpSegmentSet *segments, Ids *touched,
		 const Ids *due, CdpCause cause, CdpAccountSet *gone)
{
	TimestampTz clock = batch->applier.clock;
	CdpAccountRow *rows;
	CdpProfileEval *evals;
	Passages passages = { 0 };
	int64 *ids;
	Datum *texts;
	bool *nulls;
	TimestampTz *timers;
	Ids unset = { 0 };
	Ids set = { 0 };
	Ids shown = { 0 };
	int64 *hashes;
	TimestampTz *set_at;
	bool rollup = false;
	int n;
	int nchanged = 0;
	int maxleft = 0;
	int maxentered = 0;
	Datum args[3];

	for (int t = 0; t < traits->ntraits; t++)
		rollup |= traits->traits[t]->rollup;

	sort_ids(touched);
	rows = CdpAccountsRead(traits, touched->ids, touched->n, clock, NULL, &n);
	renew_parents(batch, rows, n, rollup, touched);
	if (rollup && touched->n > 0)
	{
		args[0] = CdpInt8Array(touched->ids, touched->n);
		CdpRunHere(&above, args, NULL);
		add_result(touched);
		sort_ids(touched);
		rows = CdpAccountsRead(traits, touched->ids, touched->n, clock, NULL, &n);
	}

	/* those that are gone have been asked for what is above them only */
	if (gone != NULL)
	{
		int kept = 0;

		for (int i = 0; i < n; i++)
		{
			CdpAccount *account = CdpAccountById(gone, rows[i].id);

			if (account == NULL || !account->gone)
				rows[kept++] = rows[i];
		}
		n = kept;
	}
	evals = palloc0(sizeof(CdpProfileEval) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		evals[i].profile_id = rows[i].id;
		evals[i].values = rows[i].values;
		evals[i].before = rows[i].segments;
		evals[i].nbefore = rows[i].nsegments;
	}
	CdpSegmentsEvaluate(segments, traits, evals, n, clock);

	for (int i = 0; i < n; i++)
	{
		maxleft += evals[i].nbefore;
		maxentered += evals[i].nafter;
	}
	if (gone != NULL)
	{
		HASH_SEQ_STATUS seq;
		CdpAccount *account;

		hash_seq_init(&seq, gone->by_id);
		while ((account = hash_seq_search(&seq)) != NULL)
			maxleft += account->nsegments;
	}
	passages.entered = palloc(sizeof(CdpPassage) * Max(maxentered, 1));
	passages.left = palloc(sizeof(CdpPassage) * Max(maxleft, 1));
	if (gone != NULL)
		leave(batch, gone, segments, &passages);

	ids = palloc(sizeof(int64) * Max(n, 1));
	texts = palloc(sizeof(Datum) * Max(n, 1));
	nulls = palloc(sizeof(bool) * Max(n, 1));
	timers = palloc(sizeof(TimestampTz) * Max(n, 1));
	set_at = palloc(sizeof(TimestampTz) * Max(n, 1));
	hashes = palloc(sizeof(int64) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		int64 hash = CdpPrimaryHash(batch->segments, traits, &rows[i].values);

		if (hash == rows[i].shown)
			continue;
		hashes[shown.n] = hash;
		add_id(&shown, rows[i].id);
	}
	CdpPrimaryTell(batch, shown.ids, hashes, shown.n);
	for (int i = 0; i < n; i++)
	{
		CdpProfileEval *eval = &evals[i];
		CdpAccount *account = gone == NULL ? NULL : CdpAccountById(gone, rows[i].id);
		CdpCause why = account != NULL ? account->cause : cause;
		TimestampTz timer = rows[i].timer;
		TimestampTz at = clock;
		bool changed = false;
		int b = 0;
		int a = 0;

		if (has_id(due, rows[i].id) && (account == NULL || !account->touched))
		{
			why = CDP_CAUSE_TIMER;
			at = Min(rows[i].timer, clock);
		}
		while (b < eval->nbefore || a < eval->nafter)
		{
			if (b < eval->nbefore && a < eval->nafter && eval->before[b] == eval->after[a])
			{
				a++;
				b++;
				continue;
			}
			changed = true;
			if (a == eval->nafter || (b < eval->nbefore && eval->before[b] < eval->after[a]))
				pass(batch, segments, &passages, eval->before[b++], rows[i].id, false, why, at);
			else
				pass(batch, segments, &passages, eval->after[a++], rows[i].id, true, why, at);
		}
		/* as with profiles, one that is early is left alone */
		if (eval->values.next < timer || timer <= clock)
			timer = eval->values.next;
		if (!changed && timer == rows[i].timer)
			continue;
		ids[nchanged] = rows[i].id;
		nulls[nchanged] = eval->nafter == 0;
		texts[nchanged] = nulls[nchanged] ? (Datum) 0 : segments_text(eval->after, eval->nafter);
		timers[nchanged++] = timer;
		if (timer == rows[i].timer)
			continue;
		if (timer == DT_NOEND)
			add_id(&unset, rows[i].id);
		else
		{
			set_at[set.n] = timer;
			add_id(&set, rows[i].id);
		}
	}
	if (nchanged > 0)
	{
		args[0] = CdpInt8Array(ids, nchanged);
		args[1] = CdpVarlenaArray(texts, nulls, nchanged, TEXTOID);
		args[2] = CdpTimestampArray(timers, nchanged);
		CdpRunHere(&update_accounts, args, NULL);
	}
	if (unset.n > 0)
	{
		args[0] = CdpInt8Array(unset.ids, unset.n);
		CdpRunHere(&delete_timers, args, NULL);
	}
	if (set.n > 0)
	{
		args[0] = CdpInt8Array(set.ids, set.n);
		args[1] = CdpTimestampArray(set_at, set.n);
		CdpRunHere(&upsert_timers, args, NULL);
	}
	CdpPassagesWrite(batch, passages.entered, passages.nentered,
					 passages.left, passages.nleft);
}

/*
 * The accounts that the batch touches.  States are written, and rows of those
 * that are gone are still there.
 */
void
CdpAccountsEvaluate(CdpAccountSet *set)
{
	CdpBatch *batch = set->batch;
	CdpSegmentSet *segments = CdpSegmentSetGet(batch->applier.generation, set->traits);
	HASH_SEQ_STATUS seq;
	CdpAccount *account;
	Ids touched = { 0 };
	Ids due = { 0 };

	if (batch->ndue > 0)
	{
		Datum arg = CdpInt8Array(batch->due, batch->ndue);

		CdpRunHere(&due_accounts, &arg, NULL);
		add_result(&due);
		sort_ids(&due);
		for (int i = 0; i < due.n; i++)
			add_id(&touched, due.ids[i]);
	}
	if (has_member_traits(set->traits))
		member_values(batch, set, &touched);
	hash_seq_init(&seq, set->by_id);
	while ((account = hash_seq_search(&seq)) != NULL)
	{
		/* who is above one that goes away loses what it had */
		if (account->touched || account->lost || account->made)
			add_id(&touched, account->id);
		if (account->lost && !account->gone)
			account->cause = CDP_CAUSE_RETRACTION;
		if (batch->rereading || batch->exchanges != NIL)
			account->cause = batch->erasing ? CDP_CAUSE_ERASURE : CDP_CAUSE_DEFINITION;
	}
	evaluate(batch, set->traits, segments, &touched, &due, CDP_CAUSE_ENTRY, set);
}

/*
 * All accounts, for a definition.
 */
void
CdpAccountsEvaluateAll(CdpBatch *batch)
{
	CdpTraitSet *traits = CdpAccountTraitSetGet(batch->applier.generation);
	CdpSegmentSet *segments = CdpSegmentSetGet(batch->applier.generation, traits);
	Ids none = { 0 };
	int64 after = 0;

	for (;;)
	{
		Ids ids = { 0 };
		Datum args[2];

		CHECK_FOR_INTERRUPTS();
		args[0] = Int64GetDatum(after);
		args[1] = Int64GetDatum(CHUNK);
		CdpRunHere(&next_accounts, args, NULL);
		add_result(&ids);
		if (ids.n == 0)
			break;
		after = ids.ids[ids.n - 1];
		evaluate(batch, traits, segments, &ids, &none, CDP_CAUSE_DEFINITION, NULL);
	}
}
