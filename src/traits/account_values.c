/*-------------------------------------------------------------------------
 *
 * account_values.c
 *	  Accounts as they are stored, and the values of their traits.
 *
 *	  What the entries of members add up to is with the account.  Of a trait
 *	  over members there are number and sum in cdp.account_totals, and the
 *	  smallest and the greatest contribution by the index of
 *	  cdp.account_values; so a value costs the same whatever the number of
 *	  members.  A trait that rolls up adds to the account's own what all accounts
 *	  below it have, each once: so a circle of parents does no harm.
 *
 * IDENTIFICATION
 *	  src/traits/account_values.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/numeric.h"

#include "cdp.h"
#include "statement.h"
#include "traits/traitset.h"

static CdpStatement load_rows = {
	"SELECT a.account_id, a.identifier, a.first_seen, a.last_seen, a.state, a.parent,"
	" a.segments, a.timer, a.shown"
	" FROM (SELECT DISTINCT unnest($1) AS account_id) AS u"
	" JOIN cdp.account_identities a ON a.account_id = u.account_id ORDER BY a.account_id",
	{ "int8[]" }
};

static CdpStatement load_below = {
	"WITH RECURSIVE d (root, account_id, identifier) AS ("
	" SELECT a.account_id, a.account_id, a.identifier"
	" FROM (SELECT DISTINCT unnest($1) AS account_id) AS u"
	" JOIN cdp.account_identities a ON a.account_id = u.account_id"
	" UNION SELECT d.root, c.account_id, c.identifier"
	" FROM d JOIN cdp.account_identities c ON c.parent = d.identifier)"
	" SELECT d.root, d.account_id, a.state FROM d"
	" JOIN cdp.account_identities a ON a.account_id = d.account_id"
	" WHERE d.account_id <> d.root ORDER BY d.root, d.account_id",
	{ "int8[]" }
};

static CdpStatement load_totals = {
	"SELECT t.account_id, t.trait_id, t.n, t.total,"
	" (SELECT v.value FROM cdp.account_values v WHERE v.account_id = t.account_id"
	" AND v.trait_id = t.trait_id ORDER BY v.value LIMIT 1),"
	" (SELECT v.value FROM cdp.account_values v WHERE v.account_id = t.account_id"
	" AND v.trait_id = t.trait_id ORDER BY v.value DESC LIMIT 1)"
	" FROM (SELECT DISTINCT unnest($1) AS account_id) AS u"
	" JOIN cdp.account_totals t ON t.account_id = u.account_id WHERE t.n > 0",
	{ "int8[]" }
};

/*
 * The same without what some profiles contribute.  NOT IN makes a hash table of
 * them, which <> ALL does not in a plan that is kept.
 */
static CdpStatement load_other_totals = {
	"SELECT t.account_id, t.trait_id, t.n - COALESCE(x.n, 0), t.total - COALESCE(x.total, 0),"
	" (SELECT v.value FROM cdp.account_values v WHERE v.account_id = t.account_id"
	" AND v.trait_id = t.trait_id AND v.profile_id NOT IN (SELECT unnest($2)) ORDER BY v.value LIMIT 1),"
	" (SELECT v.value FROM cdp.account_values v WHERE v.account_id = t.account_id"
	" AND v.trait_id = t.trait_id AND v.profile_id NOT IN (SELECT unnest($2)) ORDER BY v.value DESC LIMIT 1)"
	" FROM (SELECT DISTINCT unnest($1) AS account_id) AS u"
	" JOIN cdp.account_totals t ON t.account_id = u.account_id"
	" LEFT JOIN (SELECT v.account_id, v.trait_id, count(*) AS n, sum(v.value) AS total"
	" FROM (SELECT unnest($2) AS profile_id) AS p"
	" JOIN cdp.account_values v ON v.profile_id = p.profile_id"
	" GROUP BY v.account_id, v.trait_id) x"
	" ON x.account_id = t.account_id AND x.trait_id = t.trait_id"
	" WHERE t.n > COALESCE(x.n, 0)",
	{ "int8[]", "int8[]" }
};

/* An account below another. */
typedef struct Below
{
	int64 root;
	int64 account;
	struct varlena *state;
} Below;

/* What the members of one account contribute to one trait; hash entry. */
typedef struct Total
{
	int64 account; /* hash key, with trait */
	int64 trait; /* id of the hidden trait */
	int64 n;
	Numeric sum;
	Numeric least;
	Numeric greatest;
} Total;

static Numeric
cell_numeric(uint64 row, int column)
{
	return (Numeric) CdpCellVarlena(row, column, CurrentMemoryContext);
}

static Numeric
call(PGFunction function, Numeric a, Numeric b)
{
	return DatumGetNumeric(DirectFunctionCall2(function, NumericGetDatum(a),
											   NumericGetDatum(b)));
}

/*
 * Add one total to another, which has nothing as long as its n is 0.
 */
static void
combine_totals(Total *into, const Total *total)
{
	if (total->n == 0)
		return;
	if (into->n == 0)
	{
		into->n = total->n;
		into->sum = total->sum;
		into->least = total->least;
		into->greatest = total->greatest;
		return;
	}
	into->n += total->n;
	into->sum = call(numeric_add, into->sum, total->sum);
	into->least = call(numeric_smaller, into->least, total->least);
	into->greatest = call(numeric_larger, into->greatest, total->greatest);
}

static HTAB *
make_totals(void)
{
	HASHCTL ctl;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = 2 * sizeof(int64);
	ctl.entrysize = sizeof(Total);
	ctl.hcxt = CurrentMemoryContext;
	return hash_create("cdp totals of accounts", 64, &ctl,
					   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static void
add_values(HTAB *totals, const CdpMemberValue *values, int n)
{
	for (int i = 0; i < n; i++)
	{
		int64 key[2] = { values[i].account, values[i].member_trait };
		Total one = { .n = 1, .sum = values[i].value, .least = values[i].value, .greatest = values[i].value };
		bool found;
		Total *total = hash_search(totals, key, HASH_ENTER, &found);

		if (!found)
			total->n = 0;
		combine_totals(total, &one);
	}
}

/*
 * What the members of these accounts contribute; now: what stands in the place
 * of what is stored of some of them.
 */
static HTAB *
read_totals(const int64 *ids, int n, const CdpMembersNow *now)
{
	Datum args[2];
	HTAB *totals = make_totals();

	args[0] = CdpInt8Array(ids, n);
	if (now == NULL || now->nprofiles == 0)
		CdpRunHere(&load_totals, args, NULL);
	else
	{
		args[1] = CdpInt8Array(now->profiles, now->nprofiles);
		CdpRunHere(&load_other_totals, args, NULL);
	}
	for (uint64 r = 0; r < SPI_processed; r++)
	{
		bool isnull;
		int64 key[2] = { CdpCellInt8(r, 1), DatumGetInt32(CdpCell(r, 2, &isnull)) };
		Total *total = hash_search(totals, key, HASH_ENTER, NULL);

		total->n = CdpCellInt8(r, 3);
		total->sum = cell_numeric(r, 4);
		total->least = cell_numeric(r, 5);
		total->greatest = cell_numeric(r, 6);
	}
	SPI_freetuptable(SPI_tuptable);
	if (now != NULL)
		add_values(totals, now->values, now->nvalues);
	return totals;
}

static void
add_total(Total *into, HTAB *totals, int64 account, int32 trait)
{
	int64 key[2] = { account, trait };
	Total *total = hash_search(totals, key, HASH_FIND, NULL);

	if (total != NULL)
		combine_totals(into, total);
}

/* Without zeros at the end: what was added and taken away leaves no trace. */
static Datum
trimmed(Numeric number)
{
	return DirectFunctionCall1(numeric_trim_scale, NumericGetDatum(number));
}

static void
member_value(CdpTrait *trait, const Total *total, Datum *value, bool *isnull)
{
	*isnull = total->n == 0;
	if (trait->aggregate == CDP_AGG_COUNT)
	{
		*value = Int64GetDatum(total->n);
		return;
	}
	if (*isnull)
		return;
	switch (trait->aggregate)
	{
		case CDP_AGG_SUM:
			*value = trimmed(total->sum);
			break;
		case CDP_AGG_AVG:
			*value = trimmed(call(numeric_div, DatumGetNumeric(trimmed(total->sum)),
								  int64_to_numeric(total->n)));
			break;
		case CDP_AGG_MIN:
			*value = trimmed(total->least);
			break;
		case CDP_AGG_MAX:
			*value = trimmed(total->greatest);
			break;
		default:
			elog(ERROR, "unexpected aggregate over members: %d", (int) trait->aggregate);
	}
}

/*
 * The values of the traits over members.
 */
static void
member_values(CdpTraitSet *set, HTAB *totals, int64 account, const int64 *below, int nbelow,
			  CdpProfileValues *given)
{
	given->values = palloc0(sizeof(Datum) * set->ntraits);
	given->isnull = palloc(sizeof(bool) * set->ntraits);
	for (int i = 0; i < set->ntraits; i++)
	{
		CdpTrait *trait = set->traits[i];
		Total total = { 0 };

		given->isnull[i] = true;
		if (trait->member_trait == 0)
			continue;
		add_total(&total, totals, account, trait->member_trait);
		for (int b = 0; b < nbelow && trait->rollup; b++)
			add_total(&total, totals, below[b], trait->member_trait);
		member_value(trait, &total, &given->values[i], &given->isnull[i]);
	}
}

/*
 * Those that roll up what entries add up to.
 */
static Bitmapset *
rolled_traits(CdpTraitSet *set)
{
	Bitmapset *rolled = NULL;

	for (int i = 0; i < set->ntraits; i++)
		if (set->traits[i]->rollup && set->traits[i]->member_trait == 0)
			rolled = bms_add_member(rolled, i);
	return rolled;
}

void
CdpAccountValues(CdpTraitSet *set, CdpAccountRow *row, const int64 *below,
				 CdpNodeAcc **below_accs, int nbelow, const CdpMemberValue *contributions,
				 int ncontributions, TimestampTz now)
{
	Bitmapset *rolled = rolled_traits(set);
	CdpProfileStates states = { 0 };
	CdpProfileValues given = { 0 };
	HTAB *totals = make_totals();

	for (int i = 0; i < nbelow && rolled != NULL; i++)
		CdpNodeCombineSome(row->acc, below_accs[i], rolled);
	add_values(totals, contributions, ncontributions);
	member_values(set, totals, row->id, below, nbelow, &given);
	states.nodes = &row->acc;
	states.nnodes = 1;
	states.out = &row->values;
	states.given = &given;
	CdpProfileEvaluateAll(set, &states, 1, now);
}

CdpAccountRow *
CdpAccountsRead(CdpTraitSet *set, const int64 *ids, int n, TimestampTz now,
				CdpMembersNowFunction members, int *nrows)
{
	Datum arg = CdpInt8Array(ids, n);
	CdpAccountRow *rows;
	CdpProfileStates *states;
	CdpProfileValues *given;
	Bitmapset *rolled = rolled_traits(set);
	bool any_rolled = false;
	bool any_members = false;
	Below *below = NULL;
	int64 *ids_below;
	int nbelow = 0;
	int next = 0;
	HTAB *totals = NULL;

	for (int i = 0; i < set->ntraits; i++)
	{
		CdpTrait *trait = set->traits[i];

		any_members |= trait->member_trait != 0;
		any_rolled |= trait->rollup;
	}

	*nrows = CdpRunHere(&load_rows, &arg, NULL);
	rows = palloc0(sizeof(CdpAccountRow) * Max(*nrows, 1));
	for (int r = 0; r < *nrows; r++)
	{
		bool isnull;
		Datum value;

		rows[r].id = CdpCellInt8(r, 1);
		rows[r].identifier = CdpCellVarlena(r, 2, CurrentMemoryContext);
		rows[r].first_seen = CdpCellInt8(r, 3);
		rows[r].last_seen = CdpCellInt8(r, 4);
		rows[r].acc = CdpNodeOpen(set, CdpCellVarlena(r, 5, CurrentMemoryContext));
		rows[r].parent = CdpCellVarlena(r, 6, CurrentMemoryContext);
		value = CdpCell(r, 7, &isnull);
		if (!isnull)
		{
			ArrayType *array = DatumGetArrayTypePCopy(value);

			rows[r].nsegments = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
			rows[r].segments = (int32 *) ARR_DATA_PTR(array);
		}
		value = CdpCell(r, 8, &isnull);
		rows[r].timer = isnull ? DT_NOEND : DatumGetTimestampTz(value);
		rows[r].shown = CdpCellInt8(r, 9);
	}
	SPI_freetuptable(SPI_tuptable);

	if (any_rolled)
	{
		nbelow = CdpRunHere(&load_below, &arg, NULL);
		below = palloc(sizeof(Below) * Max(nbelow, 1));
		for (int r = 0; r < nbelow; r++)
		{
			below[r].root = CdpCellInt8(r, 1);
			below[r].account = CdpCellInt8(r, 2);
			below[r].state = CdpCellVarlena(r, 3, CurrentMemoryContext);
		}
		SPI_freetuptable(SPI_tuptable);
	}
	if (any_members)
	{
		int64 *all = palloc(sizeof(int64) * (*nrows + nbelow + 1));
		int nall = 0;

		for (int r = 0; r < *nrows; r++)
			all[nall++] = rows[r].id;
		for (int r = 0; r < nbelow; r++)
			all[nall++] = below[r].account;
		totals = read_totals(all, nall, members == NULL ? NULL : members(set, all, nall, now));
		pfree(all);
	}

	states = palloc0(sizeof(CdpProfileStates) * Max(*nrows, 1));
	given = palloc0(sizeof(CdpProfileValues) * Max(*nrows, 1));
	ids_below = palloc(sizeof(int64) * Max(nbelow, 1));
	for (int r = 0; r < *nrows; r++)
	{
		int folded = 0;

		CHECK_FOR_INTERRUPTS();
		for (; next < nbelow && below[next].root == rows[r].id; next++)
		{
			ids_below[folded++] = below[next].account;
			if (below[next].state != NULL && rolled != NULL)
				CdpNodeCombineSome(rows[r].acc, CdpNodeOpen(set, below[next].state), rolled);
		}
		states[r].nodes = &rows[r].acc;
		states[r].nnodes = 1;
		states[r].out = &rows[r].values;
		states[r].given = NULL;
		if (!any_members)
			continue;
		states[r].given = &given[r];
		member_values(set, totals, rows[r].id, ids_below, folded, &given[r]);
	}
	CdpProfileEvaluateAll(set, states, *nrows, now);
	return rows;
}
