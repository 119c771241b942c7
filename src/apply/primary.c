/*-------------------------------------------------------------------------
 *
 * primary.c
 *	  Segments of profiles that ask for the traits of their accounts.
 *
 *	  What an account is follows from its members, so these segments are
 *	  evaluated when the accounts of a batch have been: for the profiles that
 *	  the batch touches at once.  When what such segments make of an account has
 *	  changed (a hash of it stands in its row, see segments/primary.c), its members are
 *	  put down in cdp.account_news, and later batches take them from there, so
 *	  that an account of many members does not make one batch long.
 *
 * IDENTIFICATION
 *	  src/apply/primary.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "apply/batch.h"
#include "cdp.h"
#include "statement.h"

static CdpStatement update_profiles = {
	"UPDATE cdp.identities i SET segments = u.segments::int[],"
	" timer = nullif(u.timer, 'infinity')"
	" FROM (SELECT unnest($1) AS node_id, unnest($2) AS segments, unnest($3) AS timer) AS u"
	" WHERE i.node_id = u.node_id",
	{"int8[]", "text[]", "timestamptz[]"}
};

static CdpStatement upsert_timers = {
	"INSERT INTO cdp.timers AS t (profile_id, at) SELECT unnest($1), unnest($2)"
	" ON CONFLICT (profile_id) DO UPDATE SET at = excluded.at",
	{"int8[]", "timestamptz[]"}
};

static CdpStatement update_shown = {
	"UPDATE cdp.account_identities a SET shown = u.shown"
	" FROM (SELECT unnest($1) AS account_id, unnest($2) AS shown) AS u"
	" WHERE a.account_id = u.account_id",
	{"int8[]", "int8[]"}
};

static CdpStatement tell = {
	"INSERT INTO cdp.account_news (profile_id) SELECT DISTINCT i.profile_id"
	" FROM (SELECT unnest($1) AS account_id) AS u"
	" JOIN cdp.account_nodes n ON n.account_id = u.account_id"
	" JOIN cdp.identities i ON i.node_id = n.node_id"
	" ON CONFLICT DO NOTHING",
	{"int8[]"}
};

static CdpStatement take_news = {
	"DELETE FROM cdp.account_news n USING (SELECT m.profile_id FROM cdp.account_news m"
	" WHERE m.profile_id <> ALL ($2) ORDER BY m.profile_id LIMIT $1) AS u"
	" WHERE n.profile_id = u.profile_id RETURNING n.profile_id",
	{"int8", "int8[]"}, "account_news"
};

static CdpStatement drop_news = {
	"DELETE FROM cdp.account_news n USING unnest($1) AS u (id) WHERE n.profile_id = u.id",
	{"int8[]"}
};

static CdpStatement forget_news = {
	"DELETE FROM cdp.account_news", {NULL}, "account_news"
};

/*
 * Profiles that have been told of, at most so many; they are taken out.
 */
int
CdpPrimaryNews(int max, int64 **profiles)
{
	int64	   *resting = NULL;
	TimestampTz until;
	int			nresting = CdpTimersResting(&resting, &until);
	Datum		args[2];
	int			n;

	if (nresting < 0)
		return 0;
	args[0] = Int64GetDatum(max);
	args[1] = CdpInt8Array(resting, nresting);
	n = CdpRun(&take_news, args, NULL);
	*profiles = palloc(sizeof(int64) * Max(n, 1));
	for (int i = 0; i < n; i++)
		(*profiles)[i] = CdpCellInt8(i, 1);
	SPI_freetuptable(SPI_tuptable);
	return n;
}

/*
 * Everybody has just been evaluated.
 */
void
CdpPrimaryNewsForget(void)
{
	CdpRun(&forget_news, NULL, NULL);
}

/*
 * These accounts have other values now: put down who has to do with them.
 */
void
CdpPrimaryTell(CdpBatch *batch, const int64 *accounts, const int64 *hashes, int n)
{
	Datum		args[2];

	if (n == 0)
		return;
	args[0] = CdpInt8Array(accounts, n);
	args[1] = CdpInt8Array(hashes, n);
	CdpRunHere(&update_shown, args, NULL);
	if (!batch->segments->primary)
		return;
	CdpRunHere(&tell, args, NULL);
	batch->told = true;
}

/*
 * Members see their accounts as of the batch's clock, those whose timers have
 * passed without the batch coming to them, too.  When such a one is evaluated,
 * the answer may be the one again that was told last; so whoever has seen
 * another one in between makes that forgotten, and what it is then is told.
 */
static void
forget_shown(CdpBatch *batch, CdpProfileEval *evals, int n)
{
	CdpTraitSet *traits = CdpAccountTraitSetGet(batch->applier.generation);
	int64	   *accounts = NULL;
	int64	   *hashes = NULL;
	int			naccounts = 0;
	Datum		args[2];

	for (int i = 0; i < n; i++)
	{
		CdpAccountRow *account = evals[i].account;

		if (account == NULL || account->timer > batch->applier.clock ||
			account->shown == 0 ||
			account->shown == CdpPrimaryHash(batch->segments, traits, &account->values))
			continue;
		if (accounts == NULL)
		{
			accounts = palloc(sizeof(int64) * n);
			hashes = palloc0(sizeof(int64) * n);
		}
		/* other members have the same row */
		account->shown = 0;
		accounts[naccounts++] = account->id;
	}
	if (naccounts == 0)
		return;
	args[0] = CdpInt8Array(accounts, naccounts);
	args[1] = CdpInt8Array(hashes, naccounts);
	CdpRunHere(&update_shown, args, NULL);
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

/* A profile's identifiers, where segments ask for them. */
static void
name_identifiers(CdpProfile *profile, CdpProfileEval *eval)
{
	CdpNode    *node = profile->ring;

	eval->identifiers = palloc(sizeof(CdpIdentifier *) * profile->n);
	do
	{
		eval->identifiers[eval->nidentifiers++] = node->identifier;
		node = node->next;
	} while (node != profile->ring);
}

/*
 * The profiles that the batch has evaluated, in the segments that depend on
 * their accounts.  Rows of nodes and accounts are written.
 */
void
CdpPrimaryEvaluate(CdpBatch *batch)
{
	TimestampTz clock = batch->applier.clock;
	CdpProfile **profiles;
	CdpProfileEval *evals;
	CdpPassage *entered;
	CdpPassage *left;
	int64	   *ids;
	Datum	   *segments;
	bool	   *nulls;
	TimestampTz *timers;
	int64	   *set;
	TimestampTz *set_at;
	int			nentered = 0;
	int			nleft = 0;
	int			maxentered = 0;
	int			maxleft = 0;
	int			nchanged = 0;
	int			nset = 0;
	int			n = 0;
	Datum		args[3];

	if (!batch->segments->primary)
		return;
	profiles = palloc(sizeof(CdpProfile *) * Max(batch->nprofiles, 1));
	for (int i = 0; i < batch->nprofiles; i++)
		if (batch->profiles[i]->values.values != NULL)
			profiles[n++] = batch->profiles[i];
	if (n == 0)
		return;
	evals = palloc0(sizeof(CdpProfileEval) * n);
	for (int i = 0; i < n; i++)
	{
		evals[i].profile_id = profiles[i]->id;
		evals[i].values = profiles[i]->values;
		evals[i].values.next = DT_NOEND;
		evals[i].nbefore = profiles[i]->node->nnew_segments;
		evals[i].before = profiles[i]->node->new_segments;
		if (batch->segments->identity)
			name_identifiers(profiles[i], &evals[i]);
		maxleft += evals[i].nbefore;
	}
	if (batch->told)
	{
		ids = palloc(sizeof(int64) * n);
		for (int i = 0; i < n; i++)
			ids[i] = evals[i].profile_id;
		args[0] = CdpInt8Array(ids, n);
		CdpRunHere(&drop_news, args, NULL);
	}
	CdpPrimaryAccounts(batch->segments->generation, evals, n, clock, NULL);
	forget_shown(batch, evals, n);
	CdpSegmentsEvaluatePart(batch->segments, evals, n, clock, CDP_SEGMENTS_AFTER_ACCOUNTS);

	for (int i = 0; i < n; i++)
		maxentered += evals[i].nafter;
	entered = palloc(sizeof(CdpPassage) * Max(maxentered, 1));
	left = palloc(sizeof(CdpPassage) * Max(maxleft, 1));
	ids = palloc(sizeof(int64) * n);
	segments = palloc(sizeof(Datum) * n);
	nulls = palloc(sizeof(bool) * n);
	timers = palloc(sizeof(TimestampTz) * n);
	set = palloc(sizeof(int64) * n);
	set_at = palloc(sizeof(TimestampTz) * n);
	for (int i = 0; i < n; i++)
	{
		CdpProfileEval *eval = &evals[i];
		CdpNode    *node = profiles[i]->node;
		TimestampTz at = clock;
		bool		changed = false;
		int			b = 0;
		int			a = 0;

		if (profiles[i]->cause == CDP_CAUSE_TIMER && node->timer <= clock)
			at = node->timer;
		while (b < eval->nbefore || a < eval->nafter)
		{
			bool		enters;
			CdpSegment *segment;

			if (b < eval->nbefore && a < eval->nafter && eval->before[b] == eval->after[a])
			{
				a++;
				b++;
				continue;
			}
			changed = true;
			enters = b == eval->nbefore ||
				(a < eval->nafter && eval->after[a] < eval->before[b]);
			segment = CdpSegmentById(batch->segments, enters ? eval->after[a++] :
									 eval->before[b++]);
			if (segment == NULL)
				continue;
			if (enters)
				CdpPassageAdd(batch, entered, &nentered, segment, node->id, true,
							  CdpPassageCause(batch, profiles[i], segment, true), at);
			else
				CdpPassageAdd(batch, left, &nleft, segment, node->id, false,
							  CdpPassageCause(batch, profiles[i], segment, false), at);
		}
		if (eval->values.next < node->new_timer)
		{
			node->new_timer = set_at[nset] = eval->values.next;
			set[nset++] = node->id;
			changed = true;
		}
		if (!changed)
			continue;
		node->segments_changed = true;
		node->new_segments = eval->after;
		node->nnew_segments = eval->nafter;
		ItemPointerSetInvalid(&node->place);
		ids[nchanged] = node->id;
		nulls[nchanged] = eval->nafter == 0;
		segments[nchanged] = nulls[nchanged] ? (Datum) 0 :
			segments_text(eval->after, eval->nafter);
		timers[nchanged++] = node->new_timer;
	}
	if (nchanged > 0)
	{
		args[0] = CdpInt8Array(ids, nchanged);
		args[1] = CdpVarlenaArray(segments, nulls, nchanged, TEXTOID);
		args[2] = CdpTimestampArray(timers, nchanged);
		CdpRunHere(&update_profiles, args, NULL);
	}
	if (nset > 0)
	{
		args[0] = CdpInt8Array(set, nset);
		args[1] = CdpTimestampArray(set_at, nset);
		CdpRunHere(&upsert_timers, args, NULL);
	}
	CdpPassagesWrite(batch, entered, nentered, left, nleft);
}
