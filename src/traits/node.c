/*-------------------------------------------------------------------------
 *
 * node.c
 *	  A node's states, packed and unpacked; cdp.node_state.
 *
 *	  Opening reads the directory only.  A state is unpacked when something is
 *	  folded in or its value is asked for, and packed again only when it has
 *	  changed.
 *
 * IDENTIFICATION
 *	  src/traits/node.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "traits/node.h"
#include "traits/traitset.h"

/* Stamps that a new key is compared with; more would cost quadratic time. */
#define STAMP_LOOKBACK		16

static int
compare_keys(const char *a, int alen, const char *b, int blen)
{
	int			result = memcmp(a, b, Min(alen, blen));

	return result != 0 ? result : alen - blen;
}

/*
 * One entry of the directory of states.
 */
static void
read_slot(CdpReader *reader, int32 *id, uint8 *code, Oid *type,
		  const char **raw, int *rawlen)
{
	*id = (int32) CdpGetUInt(reader);
	*code = (uint8) *CdpGetBytes(reader, 1);
	*type = (Oid) CdpGetUInt(reader);
	*rawlen = CdpGetLength(reader);
	*raw = CdpGetBytes(reader, *rawlen);
}

static void
open_reader(CdpReader *reader, struct varlena *disk)
{
	reader->p = VARDATA_ANY(disk);
	reader->end = reader->p + VARSIZE_ANY_EXHDR(disk);
	if (reader->p >= reader->end)
		CdpStateDamaged("It is empty.");
	if ((uint8) *reader->p != CDP_NODE_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("unknown version %u of the stored states of traits",
						(unsigned) (uint8) *reader->p),
				 errhint("Upgrade the cdp library.")));
	reader->p++;
}

CdpNodeAcc *
CdpNodeOpen(CdpTraitSet *set, struct varlena *disk)
{
	CdpNodeAcc *acc;
	CdpReader	reader;
	int			index = 0;
	uint64		n;

	acc = (CdpNodeAcc *) palloc0(add_size(sizeof(CdpNodeAcc),
										  mul_size(set->ntraits, sizeof(CdpNodeSlot))));
	acc->set = set;
	acc->context = CurrentMemoryContext;
	acc->slots = (CdpNodeSlot *) (acc + 1);
	if (disk == NULL)
	{
		acc->dirty = true;
		acc->declared_open = true;
		return acc;
	}

	disk = PG_DETOAST_DATUM_PACKED(PointerGetDatum(disk));
	acc->disk = disk;
	open_reader(&reader, disk);
	acc->declared_rawlen = CdpGetLength(&reader);
	acc->declared_raw = CdpGetBytes(&reader, acc->declared_rawlen);
	n = CdpGetUInt(&reader);
	for (uint64 i = 0; i < n; i++)
	{
		int32		id;
		uint8		code;
		Oid			type;
		const char *raw;
		int			rawlen;

		read_slot(&reader, &id, &code, &type, &raw, &rawlen);
		/* both are in order of id */
		while (index < set->ntraits && set->traits[index]->id < id)
			index++;
		if (index < set->ntraits && set->traits[index]->id == id)
		{
			CdpTraitRules *rules = set->traits[index]->rules;

			if (!rules->suspended &&
				(CdpStateCode(&rules->state) != code || rules->state.type != type))
				CdpStateDamaged("A state does not fit its trait's definition.");
			acc->slots[index].code = code;
			acc->slots[index].type = type;
			acc->slots[index].raw = raw;
			acc->slots[index].rawlen = rawlen;
		}
		else
			acc->dirty = true;	/* the trait is gone: so is its state */
	}
	if (reader.p != reader.end)
		CdpStateDamaged("Bytes are left over.");
	return acc;
}

/*
 * Suspended traits keep their state as it is: they are never opened.
 */
CdpState *
CdpNodeState(CdpNodeAcc *acc, int index)
{
	CdpNodeSlot *slot = &acc->slots[index];

	if (slot->state == NULL && slot->raw != NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(acc->context);

		slot->state = CdpStateRead(&acc->set->traits[index]->rules->state,
								   slot->raw, slot->rawlen);
		MemoryContextSwitchTo(old);
	}
	return slot->state;
}

static void
read_declared(CdpNodeAcc *acc, CdpReader *reader)
{
	int			nstamps = CdpGetLength(reader);
	TimestampTz *ats = (TimestampTz *) palloc(mul_size(nstamps + 1, sizeof(TimestampTz)));
	text	  **ties = (text **) palloc(mul_size(nstamps + 1, sizeof(text *)));
	int			n;

	for (int i = 0; i < nstamps; i++)
	{
		ats[i] = CdpGetInt(reader);
		ties[i] = CdpGetText(reader);
	}
	n = CdpGetLength(reader);
	acc->maxdeclared = n + 8;
	acc->declared = (CdpDeclared *) palloc(mul_size(acc->maxdeclared,
													sizeof(CdpDeclared)));
	for (int i = 0; i < n; i++)
	{
		CdpDeclared *declared = &acc->declared[i];
		uint64		stamp;
		uint64		has_value;

		declared->keylen = CdpGetLength(reader);
		declared->key = CdpGetBytes(reader, declared->keylen);
		if (i > 0 &&
			compare_keys(declared[-1].key, declared[-1].keylen,
						 declared->key, declared->keylen) >= 0)
			CdpStateDamaged("Keys are not in order.");
		stamp = CdpGetUInt(reader);
		if (stamp >= nstamps)
			CdpStateDamaged("A key has no time.");
		declared->at = ats[stamp];
		declared->tie = ties[stamp];
		has_value = CdpGetUInt(reader);
		declared->value = NULL;
		declared->written = false;
		if (has_value)
		{
			declared->value = (Jsonb *) CdpGetText(reader);
			if (VARSIZE(declared->value) < VARHDRSZ + sizeof(uint32))
				CdpStateDamaged("A jsonb value has no header.");
		}
	}
	acc->ndeclared = n;
}

void
CdpNodeDeclared(CdpNodeAcc *acc)
{
	if (!acc->declared_open)
	{
		MemoryContext old = MemoryContextSwitchTo(acc->context);
		CdpReader	reader = {acc->declared_raw,
		acc->declared_raw + acc->declared_rawlen};

		if (acc->declared_rawlen > 0)
		{
			read_declared(acc, &reader);
			if (reader.p != reader.end)
				CdpStateDamaged("Bytes are left over.");
		}
		acc->declared_open = true;
		MemoryContextSwitchTo(old);
	}
}

int
CdpNodeDeclaredSearch(CdpNodeAcc *acc, const char *key, int keylen, bool *found)
{
	int			low = 0;
	int			high = acc->ndeclared;

	*found = false;
	while (low < high)
	{
		int			middle = low + (high - low) / 2;
		CdpDeclared *declared = &acc->declared[middle];
		int			result = compare_keys(declared->key, declared->keylen, key, keylen);

		if (result < 0)
			low = middle + 1;
		else
		{
			if (result == 0)
				*found = true;
			high = middle;
		}
	}
	return low;
}

Jsonb *
CdpNodeDeclaredValue(CdpNodeAcc *acc, const char *key)
{
	bool		found;
	int			position;

	CdpNodeDeclared(acc);
	position = CdpNodeDeclaredSearch(acc, key, strlen(key), &found);
	return found ? acc->declared[position].value : NULL;
}

void
CdpNodeReset(CdpNodeAcc *acc, const Bitmapset *only)
{
	acc->dirty = true;
	acc->reset = true;
	for (int i = 0; i < acc->set->ntraits; i++)
	{
		if (only != NULL && !bms_is_member(i, only))
			continue;
		CdpChunksForget(acc, i);
		memset(&acc->slots[i], 0, sizeof(CdpNodeSlot));
	}
	if (only == NULL)
	{
		acc->declared_open = true;
		acc->declared_dirty = true;
		acc->ndeclared = 0;
	}
}

/*
 * Was the key of a declared trait written, in whatever case?  When the same
 * value is written again the trait may differ too: another node may have had the
 * last word.
 */
static bool
was_written(const CdpNodeAcc *acc, const CdpTrait *trait)
{
	const char *key = CdpDeclaredKey(trait);
	int			keylen = strlen(key);

	for (int i = 0; i < acc->ndeclared; i++)
	{
		const CdpDeclared *declared = &acc->declared[i];

		if (declared->written &&
			CdpSameKeyAnyCase(declared->key, declared->keylen, key, keylen))
			return true;
	}
	return false;
}

bool
CdpNodeChanges(const CdpNodeAcc *acc, Bitmapset **changed)
{
	if (acc->reset)
		return false;
	for (int i = 0; acc->dirty && i < acc->set->ntraits; i++)
	{
		if (acc->slots[i].dirty ||
			(acc->declared_dirty && acc->set->traits[i]->aggregate == CDP_AGG_DECLARED &&
			 was_written(acc, acc->set->traits[i])))
			*changed = bms_add_member(*changed, i);
	}
	return true;
}

/*
 * Write the keys of an identify entry: the last writer by (at, tie) wins.
 */
static void
fold_declared(CdpNodeAcc *acc, const CdpEntry *entry)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	text	   *tie = NULL;

	if (entry->properties == NULL || !JB_ROOT_IS_OBJECT(entry->properties) ||
		JB_ROOT_COUNT(entry->properties) == 0)
		return;
	CdpNodeDeclared(acc);
	it = JsonbIteratorInit(&entry->properties->root);
	(void) JsonbIteratorNext(&it, &v, true);
	while ((token = JsonbIteratorNext(&it, &v, true)) == WJB_KEY)
	{
		const char *key = v.val.string.val;
		int			keylen = v.val.string.len;
		CdpDeclared *declared;
		int			position;
		bool		found;

		token = JsonbIteratorNext(&it, &v, true);
		position = CdpNodeDeclaredSearch(acc, key, keylen, &found);
		if (found)
		{
			declared = &acc->declared[position];
			if (CdpOrderCompare(entry->at, entry->tie,
								declared->at, declared->tie) <= 0)
				continue;
		}
		else
		{
			char	   *copy = palloc(Max(keylen, 1));

			if (acc->ndeclared >= acc->maxdeclared)
			{
				acc->maxdeclared = Max(8, 2 * acc->maxdeclared);
				if (acc->declared == NULL)
					acc->declared = palloc(mul_size(acc->maxdeclared, sizeof(CdpDeclared)));
				else
					acc->declared = repalloc(acc->declared,
											 mul_size(acc->maxdeclared, sizeof(CdpDeclared)));
			}
			declared = &acc->declared[position];
			memmove(declared + 1, declared,
					(acc->ndeclared - position) * sizeof(CdpDeclared));
			acc->ndeclared++;
			memcpy(copy, key, keylen);
			declared->key = copy;
			declared->keylen = keylen;
		}
		if (tie == NULL)
		{
			Size		size = VARSIZE_ANY(entry->tie);

			tie = (text *) palloc(size);
			memcpy(tie, entry->tie, size);
		}
		declared->at = entry->at;
		declared->tie = tie;
		declared->value = v.type == jbvNull ? NULL : JsonbValueToJsonb(&v);
		declared->written = true;
		acc->declared_dirty = acc->dirty = true;
	}
}

void
CdpNodeFold(CdpNodeAcc *acc, const CdpEntry *entry,
			const CdpContributions *contributions, bool declared)
{
	MemoryContext old = MemoryContextSwitchTo(acc->context);

	for (int i = 0; contributions != NULL && i < contributions->n; i++)
	{
		CdpContribution *item = &contributions->items[i];
		CdpTraitRules *rules = acc->set->traits[item->trait]->rules;
		CdpNodeSlot *slot = &acc->slots[item->trait];
		CdpState   *state = CdpNodeState(acc, item->trait);
		TimestampTz begin = entry->at;
		TimestampTz end = 0;

		if (state == NULL)
			state = slot->state = CdpStateMake(&rules->state);
		if (rules->state.windowed)
			CdpWindow(rules, entry->at, &begin, &end);
		CdpStateAdd(state, item->value, entry->at, begin, end, entry->tie);
		slot->dirty = acc->dirty = true;
	}
	if (declared && entry->type == (acc->set->accounts ? CDP_ENTRY_GROUP : CDP_ENTRY_IDENTIFY))
		fold_declared(acc, entry);
	MemoryContextSwitchTo(old);
}

/* Bytes that a varint takes. */
static int
uint_size(uint64 value)
{
	int			n = 1;

	while (value >= 0x80)
	{
		value >>= 7;
		n++;
	}
	return n;
}

static void
write_declared(StringInfo out, CdpNodeAcc *acc)
{
	StringInfoData stamps;
	StringInfoData keys;
	CdpDeclared **known;
	int			nstamps = 0;

	if (acc->ndeclared == 0)
	{
		CdpPutUInt(out, 0);
		return;
	}
	known = palloc(mul_size(acc->ndeclared, sizeof(CdpDeclared *)));
	initStringInfo(&stamps);
	initStringInfo(&keys);
	for (int i = 0; i < acc->ndeclared; i++)
	{
		CdpDeclared *declared = &acc->declared[i];
		int			stamp;

		for (stamp = nstamps - 1; stamp >= Max(0, nstamps - STAMP_LOOKBACK); stamp--)
			if (known[stamp]->at == declared->at &&
				(known[stamp]->tie == declared->tie ||
				 CdpOrderCompare(declared->at, declared->tie,
								 known[stamp]->at, known[stamp]->tie) == 0))
				break;
		if (stamp < Max(0, nstamps - STAMP_LOOKBACK))
		{
			stamp = nstamps++;
			known[stamp] = declared;
			CdpPutInt(&stamps, declared->at);
			CdpPutText(&stamps, declared->tie);
		}
		CdpPutUInt(&keys, declared->keylen);
		appendBinaryStringInfo(&keys, declared->key, declared->keylen);
		CdpPutUInt(&keys, stamp);
		CdpPutUInt(&keys, declared->value != NULL);
		if (declared->value)
			CdpPutText(&keys, (text *) declared->value);
	}
	CdpPutUInt(out, (uint64) uint_size(nstamps) + stamps.len +
			   uint_size(acc->ndeclared) + keys.len);
	CdpPutUInt(out, nstamps);
	appendBinaryStringInfo(out, stamps.data, stamps.len);
	CdpPutUInt(out, acc->ndeclared);
	appendBinaryStringInfo(out, keys.data, keys.len);
	pfree(stamps.data);
	pfree(keys.data);
	pfree(known);
}

struct varlena *
CdpNodeClose(CdpNodeAcc *acc, TimestampTz clock)
{
	return CdpNodeCloseIn(acc, clock, CurrentMemoryContext);
}

struct varlena *
CdpNodeCloseIn(CdpNodeAcc *acc, TimestampTz clock, MemoryContext context)
{
	StringInfoData out;
	StringInfoData body;
	struct varlena *result;
	int			nstates = 0;

	if (!acc->dirty)
		return acc->disk;

	initStringInfo(&out);
	initStringInfo(&body);
	appendStringInfoSpaces(&out, VARHDRSZ);
	appendStringInfoCharMacro(&out, CDP_NODE_VERSION);

	if (acc->declared_dirty || acc->disk == NULL)
		write_declared(&out, acc);
	else
	{
		CdpPutUInt(&out, acc->declared_rawlen);
		appendBinaryStringInfo(&out, acc->declared_raw, acc->declared_rawlen);
	}

	for (int pass = 0; pass < 2; pass++)
	{
		/* count first: the number comes before the states */
		if (pass == 1)
			CdpPutUInt(&out, nstates);
		for (int i = 0; i < acc->set->ntraits; i++)
		{
			CdpNodeSlot *slot = &acc->slots[i];
			CdpTrait   *trait = acc->set->traits[i];
			const CdpStateRules *rules = &trait->rules->state;

			if (pass == 0)
			{
				if (slot->dirty)
				{
					CdpStateExpire(slot->state, clock);
					if (CdpStateIsEmpty(slot->state))
						memset(slot, 0, sizeof(CdpNodeSlot));
				}
				if (slot->dirty || slot->raw != NULL)
					nstates++;
				continue;
			}
			if (!slot->dirty && slot->raw == NULL)
				continue;
			CdpPutUInt(&out, (uint32) trait->id);
			if (!slot->dirty)
			{
				/* as it was, also when the definition cannot be used now */
				appendStringInfoCharMacro(&out, (char) slot->code);
				CdpPutUInt(&out, slot->type);
				CdpPutUInt(&out, slot->rawlen);
				appendBinaryStringInfo(&out, slot->raw, slot->rawlen);
				continue;
			}
			appendStringInfoCharMacro(&out, (char) CdpStateCode(rules));
			CdpPutUInt(&out, rules->type);
			resetStringInfo(&body);
			CdpStateWrite(&body, slot->state);
			CdpPutUInt(&out, body.len);
			appendBinaryStringInfo(&out, body.data, body.len);
		}
	}

	pfree(body.data);

	/* thousands of these live for long: no larger than they are */
	result = MemoryContextAlloc(context, out.len);
	memcpy(result, out.data, out.len);
	SET_VARSIZE(result, out.len);
	pfree(out.data);
	return result;
}

/*
 * The type's input and output.  These read no table: a state says itself what
 * it is.
 */

PG_FUNCTION_INFO_V1(cdp_node_state_in);
PG_FUNCTION_INFO_V1(cdp_node_state_out);
PG_FUNCTION_INFO_V1(cdp_node_state_recv);
PG_FUNCTION_INFO_V1(cdp_node_state_send);

static struct varlena *
node_receive(StringInfo buf)
{
	StringInfoData out;
	StringInfoData body;
	CdpNodeAcc	acc = {0};
	int32		n;
	int64		last = 0;

	if (pq_getmsgbyte(buf) != CDP_NODE_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("unknown version of the states of a node")));
	n = (int32) pq_getmsgint(buf, 4);
	if (n < 0 || n > (buf->len - buf->cursor) / 16)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("impossible number of declared traits")));
	acc.declared = (CdpDeclared *) palloc(mul_size(Max(n, 1), sizeof(CdpDeclared)));
	for (int i = 0; i < n; i++)
	{
		CdpDeclared *declared = &acc.declared[i];
		text	   *key = CdpReceiveText(buf, buf->len);

		declared->key = VARDATA(key);
		declared->keylen = VARSIZE(key) - VARHDRSZ;
		declared->at = CdpReceiveTime(buf);
		declared->tie = CdpReceiveText(buf, CDP_MAX_TIE);
		declared->value = NULL;
		declared->written = false;
		if (pq_getmsgbyte(buf) != 0)
		{
			text	   *json = CdpReceiveText(buf, buf->len);

			declared->value = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
																 CStringGetDatum(text_to_cstring(json))));
		}
		if (i > 0 && compare_keys(declared[-1].key, declared[-1].keylen,
								  declared->key, declared->keylen) >= 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
					 errmsg("declared traits are not in order")));
		acc.ndeclared++;
	}

	initStringInfo(&out);
	initStringInfo(&body);
	appendStringInfoSpaces(&out, VARHDRSZ);
	appendStringInfoCharMacro(&out, CDP_NODE_VERSION);
	write_declared(&out, &acc);

	n = (int32) pq_getmsgint(buf, 4);
	if (n < 0 || n > (buf->len - buf->cursor) / 10)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("impossible number of states")));
	CdpPutUInt(&out, n);
	for (int i = 0; i < n; i++)
	{
		int64		id = (int32) pq_getmsgint(buf, 4);
		CdpState   *state;

		CHECK_FOR_INTERRUPTS();
		if (id <= last)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
					 errmsg("states are not in order")));
		last = id;
		state = CdpStateReceive(buf);
		CdpPutUInt(&out, (uint32) id);
		appendStringInfoCharMacro(&out, (char) CdpStateCode(state->rules));
		CdpPutUInt(&out, state->rules->type);
		resetStringInfo(&body);
		CdpStateWrite(&body, state);
		CdpPutUInt(&out, body.len);
		appendBinaryStringInfo(&out, body.data, body.len);
	}
	if (buf->cursor != buf->len)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("bytes are left over after the states of a node")));
	SET_VARSIZE(out.data, out.len);
	return (struct varlena *) out.data;
}

static void
node_send(StringInfo buf, struct varlena *disk)
{
	CdpReader	reader;
	CdpNodeAcc	acc = {0};
	uint64		n;

	acc.context = CurrentMemoryContext;
	open_reader(&reader, disk);
	acc.declared_rawlen = CdpGetLength(&reader);
	acc.declared_raw = CdpGetBytes(&reader, acc.declared_rawlen);
	CdpNodeDeclared(&acc);

	pq_sendint8(buf, CDP_NODE_VERSION);
	pq_sendint32(buf, acc.ndeclared);
	for (int i = 0; i < acc.ndeclared; i++)
	{
		CdpDeclared *declared = &acc.declared[i];

		pq_sendint32(buf, declared->keylen);
		pq_sendbytes(buf, declared->key, declared->keylen);
		pq_sendint64(buf, declared->at);
		pq_sendint32(buf, VARSIZE_ANY_EXHDR(declared->tie));
		pq_sendbytes(buf, VARDATA_ANY(declared->tie),
					 VARSIZE_ANY_EXHDR(declared->tie));
		pq_sendint8(buf, declared->value != NULL);
		if (declared->value)
		{
			char	   *json = JsonbToCString(NULL, &declared->value->root,
											  VARSIZE(declared->value));

			pq_sendint32(buf, strlen(json));
			pq_sendbytes(buf, json, strlen(json));
		}
	}
	n = CdpGetUInt(&reader);
	if (n > PG_INT32_MAX)
		CdpStateDamaged("The number of states is impossible.");
	pq_sendint32(buf, (int32) n);
	while (n-- > 0)
	{
		int32		id;
		uint8		code;
		Oid			type;
		const char *raw;
		int			rawlen;

		read_slot(&reader, &id, &code, &type, &raw, &rawlen);
		pq_sendint32(buf, id);
		CdpStateSend(buf, CdpStateReadAny(code, type, false, raw, rawlen));
	}
	if (reader.p != reader.end)
		CdpStateDamaged("Bytes are left over.");
}

Datum
cdp_node_state_in(PG_FUNCTION_ARGS)
{
	StringInfoData buf;

	CdpHexToBuffer(&buf, PG_GETARG_CSTRING(0), "cdp.node_state");
	PG_RETURN_POINTER(node_receive(&buf));
}

Datum
cdp_node_state_out(PG_FUNCTION_ARGS)
{
	StringInfoData buf;

	initStringInfo(&buf);
	node_send(&buf, PG_GETARG_VARLENA_PP(0));
	PG_RETURN_CSTRING(CdpBufferToHex(&buf));
}

Datum
cdp_node_state_recv(PG_FUNCTION_ARGS)
{
	PG_RETURN_POINTER(node_receive((StringInfo) PG_GETARG_POINTER(0)));
}

Datum
cdp_node_state_send(PG_FUNCTION_ARGS)
{
	StringInfoData buf;

	pq_begintypsend(&buf);
	node_send(&buf, PG_GETARG_VARLENA_PP(0));
	PG_RETURN_BYTEA_P(pq_endtypsend(&buf));
}
