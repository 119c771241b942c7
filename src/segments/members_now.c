/*-------------------------------------------------------------------------
 *
 * members_now.c
 *	  What members contribute to the traits of their accounts; the same at the
 *	  instant of a read.
 *
 *	  Contributions are stored as of the last batch that looked at the member.
 *	  Those of a member whose timer is due by the instant of the read may be
 *	  other ones by then.  Timers are never late, so everybody else's hold.  The
 *	  few that are due are evaluated, and stand in the place of what is stored;
 *	  nothing is written.
 *
 * IDENTIFICATION
 *	  src/segments/members_now.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/qunique.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "cdp.h"
#include "identity/account.h"
#include "segments/segments.h"
#include "statement.h"

/*
 * When so many timers are due, or more than the accounts have nodes, those of
 * their members are picked out of these, not the members out of those.
 */
#define MANY_DUE 1000

/* Profiles that are evaluated at a time. */
#define CHUNK 256

static CdpStatement due_timers = {
	"SELECT t.profile_id FROM cdp.timers t WHERE t.at <= $1 LIMIT " CppAsString2(MANY_DUE),
	{ "timestamptz" }
};

static CdpStatement some_nodes = {
	"SELECT FROM cdp.account_nodes n WHERE n.account_id = ANY ($1) LIMIT $2",
	{ "int8[]", "int8" }
};

/* Also of who has left. */
static CdpStatement due_members = {
	"SELECT t.profile_id FROM cdp.account_nodes n"
	" JOIN cdp.identities i ON i.node_id = n.node_id"
	" JOIN cdp.timers t ON t.profile_id = i.profile_id AND t.at <= $2"
	" WHERE n.account_id = ANY ($1)",
	{ "int8[]", "timestamptz" }
};

/*
 * What a profile with these values, in these segments, contributes as
 * member_trait says (see CdpTrait); NULL: nothing.
 */
Numeric
CdpMemberContributes(CdpTraitSet *traits, int32 member_trait, const CdpProfileValues *values,
					 const int32 *segments, int nsegments)
{
	CdpTrait *member;
	Numeric value;

	if (member_trait < 0)
	{
		/* one, for who is in that segment */
		for (int i = 0; i < nsegments; i++)
			if (segments[i] == -member_trait)
				return int64_to_numeric(1);
		return NULL;
	}
	member = CdpTraitById(traits, member_trait);
	if (member == NULL || values->isnull[member->index] || member->type != NUMERICOID)
		return NULL;
	value = DatumGetNumeric(values->values[member->index]);
	if (numeric_is_nan(value) || numeric_is_inf(value))
		return NULL; /* could not be taken away again */
	return value;
}

/*
 * Numbers in the first column of what has been run, ascending, each once.
 */
static int64 *
result_ids(int *n)
{
	int64 *ids;

	*n = (int) SPI_processed;
	ids = palloc(sizeof(int64) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
		ids[i] = CdpCellInt8(i, 1);
	SPI_freetuptable(SPI_tuptable);
	qsort(ids, *n, sizeof(int64), CdpCompareInt8);
	*n = (int) qunique(ids, *n, sizeof(int64), CdpCompareInt8);
	return ids;
}

/*
 * Whose time has come, among them all members of the accounts whose has.
 */
static int64 *
due_profiles(const int64 *accounts, int naccounts, TimestampTz now, int *n)
{
	Datum args[2];
	Datum at = TimestampTzGetDatum(now);
	int64 *ids;

	CdpRunHere(&due_timers, &at, NULL);
	ids = result_ids(n);
	if (*n == 0)
		return ids;
	args[0] = CdpInt8Array(accounts, naccounts);
	args[1] = Int64GetDatum(*n);
	if (*n < MANY_DUE)
	{
		bool few = CdpRunHere(&some_nodes, args, NULL) == *n;

		SPI_freetuptable(SPI_tuptable);
		if (few)
			return ids;
	}
	args[1] = at;
	CdpRunHere(&due_members, args, NULL);
	return result_ids(n);
}

/* A read: what it needs to evaluate members. */
typedef struct MembersRead
{
	CdpTraitSet *accounts;
	CdpTraitSet *traits; /* of profiles */
	CdpSegmentSet *segments;
	Bitmapset *counted; /* columns of segments whose members are counted */
	const int64 *ids; /* the accounts that are read, ascending */
	int nids;
	TimestampTz now;
	MemoryContext context; /* of the result */
	CdpMembersNow *out;
} MembersRead;

static void
contribute(MembersRead *read, const CdpMembership *membership, const CdpProfileEval *profile)
{
	CdpMembersNow *out = read->out;

	for (int t = 0; t < read->accounts->ntraits; t++)
	{
		int32 member_trait = read->accounts->traits[t]->member_trait;
		Numeric value = member_trait == 0 ? NULL :
											CdpMemberContributes(read->traits, member_trait, &profile->values, profile->after,
																 profile->nafter);
		MemoryContext old;
		bool known = value == NULL;

		/* several traits of accounts may be over one of members */
		for (int before = 0; before < t && !known; before++)
			known = read->accounts->traits[before]->member_trait == member_trait;
		if (known)
			continue;
		old = MemoryContextSwitchTo(read->context);
		if (out->nvalues == out->max)
		{
			out->max = Max(64, 2 * out->max);
			out->values = out->values == NULL ? palloc(sizeof(CdpMemberValue) * out->max) : repalloc_huge(out->values, sizeof(CdpMemberValue) * out->max);
		}
		out->values[out->nvalues].account = membership->account_id;
		out->values[out->nvalues].member_trait = member_trait;
		out->values[out->nvalues++].value = (Numeric) PG_DETOAST_DATUM_COPY(NumericGetDatum(value));
		MemoryContextSwitchTo(old);
	}
}

/*
 * What these profiles contribute to the accounts that are read.
 */
static void
evaluate_members(MembersRead *read, const int64 *profiles, int n)
{
	CdpMembership *memberships;
	CdpProfileEval eval = { 0 };
	int nmemberships;

	memberships = CdpAccountsOfProfiles(profiles, n, DT_NOEND, &nmemberships);
	for (int i = 0; i < nmemberships; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (bsearch(&memberships[i].account_id, read->ids, read->nids, sizeof(int64),
					CdpCompareInt8) == NULL)
			continue;
		if (eval.profile_id != memberships[i].profile_id)
		{
			CdpProfileNodes nodes;

			memset(&eval, 0, sizeof(eval));
			eval.profile_id = memberships[i].profile_id;
			if (!CdpProfileRead(eval.profile_id, read->traits, &nodes))
				continue;
			CdpProfileEvaluate(read->traits, nodes.accs, nodes.nnodes, read->now, &eval.values);
			eval.before = eval.after = nodes.segments;
			eval.nbefore = eval.nafter = nodes.nsegments;
			eval.nidentifiers = nodes.nnodes;
			eval.identifiers = CdpProfileIdentifiers(&nodes);
			if (read->counted != NULL)
				CdpSegmentsEvaluateSome(read->segments, &eval, 1, read->now, read->counted, false);
			read->out->next = Min(read->out->next, eval.values.next);
		}
		if (eval.values.values != NULL)
			contribute(read, &memberships[i], &eval);
	}
}

CdpMembersNow *
CdpMembersNowRead(CdpTraitSet *accounts, const int64 *ids, int n, TimestampTz now)
{
	MembersRead read = { accounts };
	CdpMembersNow *out = palloc0(sizeof(CdpMembersNow));
	MemoryContext chunk;
	int64 *sorted;

	out->next = DT_NOEND;
	out->profiles = due_profiles(ids, n, now, &out->nprofiles);
	if (out->nprofiles == 0)
		return out;
	read.context = CurrentMemoryContext;
	read.out = out;
	read.now = now;
	sorted = palloc(sizeof(int64) * Max(n, 1));
	memcpy(sorted, ids, sizeof(int64) * n);
	qsort(sorted, n, sizeof(int64), CdpCompareInt8);
	read.ids = sorted;
	read.nids = n;
	read.traits = CdpTraitSetGet(accounts->generation);
	read.segments = CdpSegmentSetGet(accounts->generation, read.traits);
	for (int t = 0; t < accounts->ntraits; t++)
	{
		int column = accounts->traits[t]->member_trait >= 0 ? -1 :
															  CdpSegmentColumn(read.segments, -accounts->traits[t]->member_trait);

		if (column >= 0)
			read.counted = bms_add_member(read.counted, column);
	}
	chunk = AllocSetContextCreate(CurrentMemoryContext, "cdp members", ALLOCSET_DEFAULT_SIZES);
	for (int i = 0; i < out->nprofiles; i += CHUNK)
	{
		MemoryContext old = MemoryContextSwitchTo(chunk);

		evaluate_members(&read, out->profiles + i, Min(CHUNK, out->nprofiles - i));
		MemoryContextSwitchTo(old);
		MemoryContextReset(chunk);
	}
	MemoryContextDelete(chunk);
	return out;
}
