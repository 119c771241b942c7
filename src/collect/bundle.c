/*-------------------------------------------------------------------------
 *
 * bundle.c
 *	  The format of a bundle: entries of one statement on an attached table,
 *	  packed.
 *
 *	  A bundle has what its entries have in common once: transaction, time of
 *	  receipt and incarnation in columns, source, type, names of events and of
 *	  kinds of identifiers at the beginning of what is packed.  An entry has the
 *	  difference of its id and of its time to those of the entry before, the key
 *	  of its row, the hash of what it says, and its identifiers.  Properties are
 *	  the reference that the key makes.  Numbers are of variable length, seven
 *	  bits a byte, and signed ones have their sign in the lowest bit.
 *
 *	  Nothing is compressed, so that an erasure can look for what it has erased
 *	  in the bytes of pages.
 *
 * IDENTIFICATION
 *	  src/collect/bundle.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "lib/qunique.h"
#include "port/pg_crc32c.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/uuid.h"

#include "cdp.h"
#include "collect/attach.h"
#include "collect/bundle.h"
#include "compat.h"
#include "identity/identity.h"

PG_FUNCTION_INFO_V1(cdp_bundle_buckets);

#define FORMAT 1

/* The format, and a checksum of what follows. */
#define HEADER (1 + (int) sizeof(pg_crc32c))

/*
 * Four rows a page, and the header of a row with its columns.  More would be
 * put out of line.
 */
#define MAX_PACKED 1940

/* Rows of a database share so many buckets. */
#define BUCKET_BITS 24

/* Bytes of what CdpShortKey makes. */
#define MAX_SHORT 16

/* Numbers of which so many that follow each other are in a bucket. */
#define NEIGHBOURS 8

/* Numbers of so many digits are packed as such: two bits of 64 say that they are. */
#define MAX_DIGITS 18

/* How a key is packed. */
#define KEY_BITS 2
#define KEY_BYTES 0
#define KEY_NUMBER 1
#define KEY_UUID 2

#define UUID_WRITTEN 36
#define HEX "0123456789abcdef"

#define ITEM_EVENT 0x04
#define ITEM_PROPERTIES 0x03

typedef struct WrittenName
{
	char *name;
	int len;
} WrittenName;

struct CdpBundleWriter
{
	text *source;
	text *type;
	List *kinds; /* WrittenName * */
	List *events;
	int names; /* bytes that they take */
	StringInfoData items;
	int count;
	int64 first;
	int64 id; /* of the item before */
	TimestampTz at;
};

static void
put_number(StringInfo buf, uint64 number)
{
	while (number >= 0x80)
	{
		appendStringInfoCharMacro(buf, (char) (number | 0x80));
		number >>= 7;
	}
	appendStringInfoCharMacro(buf, (char) number);
}

static void
put_signed(StringInfo buf, int64 number)
{
	put_number(buf, ((uint64) number << 1) ^ (uint64) (number >> 63));
}

/* Differences are modulo 2^64: infinite times are the least and the greatest. */
static void
put_difference(StringInfo buf, int64 value, int64 *before)
{
	put_signed(buf, (int64) ((uint64) value - (uint64) *before));
	*before = value;
}

static void
put_bytes(StringInfo buf, const char *data, int len)
{
	put_number(buf, len);
	appendBinaryStringInfo(buf, data, len);
}

static pg_crc32c
check_of(const char *data, Size len)
{
	pg_crc32c check;

	INIT_CRC32C(check);
	COMP_CRC32C(check, data + HEADER, len - HEADER);
	FIN_CRC32C(check);
	return check;
}

pg_noreturn static void
damaged(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("a row of cdp.bundles is damaged")));
}

static uint64
get_number(const char **place, const char *end)
{
	uint64 number = 0;

	for (int shift = 0; shift < 64; shift += 7)
	{
		uint8 byte;

		if (*place >= end)
			break;
		byte = (uint8) * (*place)++;
		number |= (uint64) (byte & 0x7f) << shift;
		if (byte < 0x80)
			return number;
	}
	damaged();
}

static int64
get_signed(const char **place, const char *end)
{
	uint64 number = get_number(place, end);

	return (int64) (number >> 1) ^ -(int64) (number & 1);
}

static int64
get_difference(const char **place, const char *end, int64 *before)
{
	*before = (int64) ((uint64) *before + (uint64) get_signed(place, end));
	return *before;
}

static const char *
get_bytes(const char **place, const char *end, int *len)
{
	uint64 size = get_number(place, end);
	const char *data = *place;

	if (size > end - *place)
		damaged();
	*len = (int) size;
	*place += size;
	return data;
}

/*
 * The bytes of a UUID that is written as uuid_out does; false: it is not.
 */
static bool
read_uuid(const char *key, int len, pg_uuid_t *uuid)
{
	if (len != UUID_WRITTEN)
		return false;
	memset(uuid, 0, sizeof(*uuid));
	for (int i = 0, digits = 0; i < len; i++)
	{
		const char *digit = key[i] == '\0' ? NULL : strchr(HEX, key[i]);

		if (i == 8 || i == 13 || i == 18 || i == 23)
		{
			if (key[i] != '-')
				return false;
			continue;
		}
		if (digit == NULL)
			return false;
		uuid->data[digits / 2] |= (uint8) (digit - HEX) << (digits % 2 == 0 ? 4 : 0);
		digits++;
	}
	return true;
}

static void
write_uuid(const uint8 *uuid, char *written)
{
	for (int i = 0, place = 0; i < UUID_LEN; i++)
	{
		if (i == 4 || i == 6 || i == 8 || i == 10)
			written[place++] = '-';
		written[place++] = HEX[uuid[i] >> 4];
		written[place++] = HEX[uuid[i] & 0x0f];
	}
}

/*
 * The key of a row: a number or a UUID, if it is written as one is, or bytes.
 */
static void
put_key(StringInfo buf, const char *key, int len)
{
	uint64 number = 0;
	bool is_number = len > 0 && len <= MAX_DIGITS && (key[0] != '0' || len == 1);
	pg_uuid_t uuid;

	for (int i = 0; is_number && i < len; i++)
	{
		is_number = key[i] >= '0' && key[i] <= '9';
		number = number * 10 + (key[i] - '0');
	}
	if (is_number)
		put_number(buf, number << KEY_BITS | KEY_NUMBER);
	else if (read_uuid(key, len, &uuid))
	{
		put_number(buf, KEY_UUID);
		appendBinaryStringInfo(buf, (const char *) uuid.data, UUID_LEN);
	}
	else
	{
		put_number(buf, (uint64) len << KEY_BITS);
		appendBinaryStringInfo(buf, key, len);
	}
}

static void
get_key(const char **place, const char *end, CdpBundleItem *item)
{
	uint64 number = get_number(place, end);
	int kind = number & ((1 << KEY_BITS) - 1);

	number >>= KEY_BITS;
	item->key = NULL;
	if (kind == KEY_NUMBER)
		item->keylen = pg_ulltoa_n(number, item->written);
	else if (kind == KEY_UUID)
	{
		if (end - *place < UUID_LEN)
			damaged();
		item->keylen = UUID_WRITTEN;
		write_uuid((const uint8 *) *place, item->written);
		*place += UUID_LEN;
	}
	else
	{
		if (kind != KEY_BYTES || number > end - *place)
			damaged();
		item->key = *place;
		item->keylen = (int) number;
		*place += number;
	}
}

static const char *
key_of(const CdpBundleItem *item)
{
	return item->key != NULL ? item->key : item->written;
}

CdpBundleWriter *
CdpBundleWriterMake(const text *source, const text *type)
{
	CdpBundleWriter *writer = palloc0(sizeof(CdpBundleWriter));

	writer->source = source == NULL ? NULL : DatumGetTextPCopy(PointerGetDatum(source));
	writer->type = DatumGetTextPCopy(PointerGetDatum(type));
	initStringInfo(&writer->items);
	return writer;
}

/*
 * The number of a name, which is added if it is not known.
 */
static int
number_of(CdpBundleWriter *writer, List **names, const char *data, int len)
{
	ListCell *cell;
	WrittenName *name;

	foreach(cell, *names)
	{
		name = lfirst(cell);
		if (name->len == len && memcmp(name->name, data, len) == 0)
			return foreach_current_index(cell);
	}
	name = palloc(sizeof(WrittenName));
	name->name = pnstrdup(data, len);
	name->len = len;
	*names = lappend(*names, name);
	writer->names += len + 2;
	return list_length(*names) - 1;
}

static void
put_identifier(CdpBundleWriter *writer, Datum datum)
{
	struct varlena *identifier = PG_DETOAST_DATUM_PACKED(datum);
	const char *data = VARDATA_ANY(identifier);
	int len = VARSIZE_ANY_EXHDR(identifier);
	const char *colon = memchr(data, ':', len);

	if (colon == NULL)
		elog(ERROR, "an identifier has no kind");
	put_number(&writer->items, number_of(writer, &writer->kinds, data, colon - data));
	put_bytes(&writer->items, colon + 1, data + len - (colon + 1));
}

bool
CdpBundleWriterAdd(CdpBundleWriter *writer, const CdpBundleItem *item)
{
	CdpBundleWriter before = *writer;
	int nkinds = list_length(writer->kinds);
	int nevents = list_length(writer->events);
	StringInfo buf = &writer->items;

	if (writer->count == 0)
		writer->first = writer->id = item->id;
	put_number(buf, item->id - writer->id);
	writer->id = item->id;
	appendStringInfoCharMacro(buf, (char) (item->properties | (item->event != NULL ? ITEM_EVENT : 0)));
	put_difference(buf, item->at, &writer->at);
	put_key(buf, key_of(item), item->keylen);
	appendBinaryStringInfo(buf, (const char *) &item->hash, sizeof(int64));
	if (item->event != NULL)
		put_number(buf, number_of(writer, &writer->events, item->event, item->eventlen));
	if (item->properties == CDP_BUNDLE_COPIED)
		put_bytes(buf, item->copied, item->copiedlen);
	put_number(buf, item->nidentifiers);
	for (int i = 0; i < item->nidentifiers; i++)
		put_identifier(writer, item->identifiers[i]);
	if (writer->count > 0 &&
		buf->len + writer->names + VARSIZE_ANY_EXHDR(writer->type) +
				(writer->source ? VARSIZE_ANY_EXHDR(writer->source) : 0) >
			MAX_PACKED)
	{
		/* as it was */
		before.items.data = buf->data;
		before.items.maxlen = buf->maxlen;
		before.kinds = list_truncate(writer->kinds, nkinds);
		before.events = list_truncate(writer->events, nevents);
		*writer = before;
		return false;
	}
	writer->count++;
	return true;
}

int
CdpBundleWriterCount(const CdpBundleWriter *writer)
{
	return writer->count;
}

static void
put_names(StringInfo buf, List *names)
{
	ListCell *cell;

	put_number(buf, list_length(names));
	foreach(cell, names)
	{
		WrittenName *name = lfirst(cell);

		put_bytes(buf, name->name, name->len);
	}
}

bytea *
CdpBundleWriterTake(CdpBundleWriter *writer, int64 *first, int64 *last)
{
	StringInfoData buf;
	pg_crc32c check;

	Assert(writer->count > 0);
	*first = writer->first;
	*last = writer->id;
	initStringInfo(&buf);
	appendStringInfoSpaces(&buf, VARHDRSZ);
	appendStringInfoCharMacro(&buf, FORMAT);
	appendStringInfoSpaces(&buf, sizeof(pg_crc32c));
	if (writer->source == NULL)
		put_number(&buf, 0);
	else
	{
		put_number(&buf, VARSIZE_ANY_EXHDR(writer->source) + 1);
		appendBinaryStringInfo(&buf, VARDATA_ANY(writer->source), VARSIZE_ANY_EXHDR(writer->source));
	}
	put_bytes(&buf, VARDATA_ANY(writer->type), VARSIZE_ANY_EXHDR(writer->type));
	put_names(&buf, writer->kinds);
	put_names(&buf, writer->events);
	appendBinaryStringInfo(&buf, writer->items.data, writer->items.len);
	SET_VARSIZE(buf.data, buf.len);
	check = check_of(buf.data + VARHDRSZ, buf.len - VARHDRSZ);
	memcpy(buf.data + VARHDRSZ + 1, &check, sizeof(check));

	resetStringInfo(&writer->items);
	writer->kinds = NIL;
	writer->events = NIL;
	writer->names = 0;
	writer->count = 0;
	writer->at = 0;
	return (bytea *) buf.data;
}

static int
get_names(CdpBundleReader *reader, const char ***names, int **lens)
{
	uint64 n = get_number(&reader->place, reader->end);

	if (n > reader->end - reader->place)
		damaged();
	*names = palloc_array(const char *, Max(n, 1));
	*lens = palloc_array(int, Max(n, 1));
	for (uint64 i = 0; i < n; i++)
		(*names)[i] = get_bytes(&reader->place, reader->end, &(*lens)[i]);
	return (int) n;
}

void
CdpBundleReaderBegin(CdpBundleReader *reader, const CdpBundleRow *row, bytea *packed)
{
	uint64 sourcelen;
	pg_crc32c check;
	const char *data;
	int len;

	memset(reader, 0, sizeof(CdpBundleReader));
	reader->place = VARDATA_ANY(packed);
	reader->end = reader->place + VARSIZE_ANY_EXHDR(packed);
	if (reader->end - reader->place < HEADER || *reader->place != FORMAT)
		damaged();
	memcpy(&check, reader->place + 1, sizeof(check));
	if (!EQ_CRC32C(check, check_of(reader->place, reader->end - reader->place)))
		damaged();
	reader->place += HEADER;
	sourcelen = get_number(&reader->place, reader->end);
	if (sourcelen > 0)
	{
		sourcelen--;
		if (sourcelen > reader->end - reader->place)
			damaged();
		reader->source = cstring_to_text_with_len(reader->place, (int) sourcelen);
		reader->place += sourcelen;
	}
	data = get_bytes(&reader->place, reader->end, &len);
	reader->type = cstring_to_text_with_len(data, len);
	reader->nkinds = get_names(reader, &reader->kinds, &reader->kindlens);
	reader->nevents = get_names(reader, &reader->events, &reader->eventlens);
	reader->id = row->first;
}

bool
CdpBundleReaderNext(CdpBundleReader *reader, CdpBundleItem *item)
{
	const char **place = &reader->place;
	const char *end = reader->end;
	uint8 flags;
	uint64 number;

	if (*place >= end)
		return false;
	item->id = reader->id += (int64) get_number(place, end);
	if (*place >= end)
		damaged();
	flags = (uint8) * (*place)++;
	if ((flags & ~(ITEM_EVENT | ITEM_PROPERTIES)) != 0 || (flags & ITEM_PROPERTIES) > CDP_BUNDLE_NONE)
		damaged();
	item->at = get_difference(place, end, &reader->at);
	get_key(place, end, item);
	item->event = NULL;
	item->identifiers = NULL;
	if (end - *place < sizeof(int64))
		damaged();
	memcpy(&item->hash, *place, sizeof(int64));
	*place += sizeof(int64);
	if (flags & ITEM_EVENT)
	{
		number = get_number(place, end);
		if (number >= reader->nevents)
			damaged();
		item->event = reader->events[number];
		item->eventlen = reader->eventlens[number];
	}
	item->properties = flags & ITEM_PROPERTIES;
	if (item->properties == CDP_BUNDLE_COPIED)
		item->copied = get_bytes(place, end, &item->copiedlen);
	number = get_number(place, end);
	if (number > end - *place)
		damaged();
	item->nidentifiers = (int) number;
	item->packed = *place;
	for (int i = 0; i < item->nidentifiers; i++)
	{
		int len;

		if (get_number(place, end) >= reader->nkinds)
			damaged();
		(void) get_bytes(place, end, &len);
	}
	return true;
}

/*
 * The identifiers of an item that was read.
 */
static Datum *
identifiers_of(const CdpBundleReader *reader, const CdpBundleItem *item)
{
	Datum *result = palloc_array(Datum, Max(item->nidentifiers, 1));
	const char *place = item->packed;

	for (int i = 0; i < item->nidentifiers; i++)
	{
		int kind = (int) get_number(&place, reader->end);
		int len;
		const char *value = get_bytes(&place, reader->end, &len);

		result[i] = PointerGetDatum(CdpIdentifierMake(reader->kinds[kind], reader->kindlens[kind],
													  value, len));
	}
	return result;
}

static Jsonb *
properties_of(const CdpBundleItem *item)
{
	Jsonb *result;

	if (item->properties == CDP_BUNDLE_NONE)
		return NULL;
	if (item->properties == CDP_BUNDLE_COPIED)
	{
		result = palloc(VARHDRSZ + item->copiedlen);
		SET_VARSIZE(result, VARHDRSZ + item->copiedlen);
		memcpy(VARDATA(result), item->copied, item->copiedlen);
		return result;
	}
	return CdpReferenceMake(cstring_to_text_with_len(key_of(item), item->keylen));
}

void
CdpBundleItemRow(const CdpBundleReader *reader, const CdpBundleRow *row,
				 const CdpBundleItem *item, Datum *values, bool *isnull)
{
	Jsonb *properties = properties_of(item);

	memset(isnull, 0, sizeof(bool) * CDP_EVENTS_NATTS);
	values[CDP_EVENTS_ID] = Int64GetDatum(item->id);
	isnull[CDP_EVENTS_MESSAGE_ID] = true;
	values[CDP_EVENTS_MESSAGE_ID] = (Datum) 0;
	isnull[CDP_EVENTS_SOURCE] = reader->source == NULL;
	values[CDP_EVENTS_SOURCE] = PointerGetDatum(reader->source);
	values[CDP_EVENTS_TYPE] = PointerGetDatum(reader->type);
	isnull[CDP_EVENTS_EVENT] = item->event == NULL;
	values[CDP_EVENTS_EVENT] = item->event == NULL ? (Datum) 0 : PointerGetDatum(cstring_to_text_with_len(item->event, item->eventlen));
	values[CDP_EVENTS_IDENTIFIERS] =
		PointerGetDatum(construct_array(identifiers_of(reader, item), item->nidentifiers,
										CdpTypeOid("identifier"), -1, false, TYPALIGN_INT));
	isnull[CDP_EVENTS_PROPERTIES] = properties == NULL;
	values[CDP_EVENTS_PROPERTIES] = PointerGetDatum(properties);
	isnull[CDP_EVENTS_CONTEXT] = true;
	values[CDP_EVENTS_CONTEXT] = (Datum) 0;
	values[CDP_EVENTS_OCCURRED_AT] = TimestampTzGetDatum(item->at);
	values[CDP_EVENTS_RECEIVED_AT] = TimestampTzGetDatum(row->received_at);
	values[CDP_EVENTS_XID] = Int64GetDatum(row->xid);
	values[CDP_EVENTS_INCARNATION] = Int32GetDatum(row->incarnation);
}

bytea *
CdpBundleItemKey(const CdpBundleItem *item)
{
	bytea *key;

	if (item->properties == CDP_BUNDLE_REFERENCE)
		return CdpShortKey(key_of(item), item->keylen);
	key = palloc(VARHDRSZ + item->keylen);
	SET_VARSIZE(key, VARHDRSZ + item->keylen);
	memcpy(VARDATA(key), key_of(item), item->keylen);
	return key;
}

/*
 * The others are packed again: what they differ in is from one to the next.
 */
bytea *
CdpBundleWithout(CdpBundleRow *row, bytea *packed, const int64 *ids, int n)
{
	CdpBundleReader reader;
	CdpBundleWriter *writer;
	CdpBundleItem item;

	CdpBundleReaderBegin(&reader, row, packed);
	writer = CdpBundleWriterMake(reader.source, reader.type);
	while (CdpBundleReaderNext(&reader, &item))
	{
		if (bsearch(&item.id, ids, n, sizeof(int64), CdpCompareInt8) != NULL)
			continue;
		item.identifiers = identifiers_of(&reader, &item);
		if (!CdpBundleWriterAdd(writer, &item))
			elog(ERROR, "a bundle has become larger");
	}
	return CdpBundleWriterCount(writer) == 0 ? NULL : CdpBundleWriterTake(writer, &row->first, &row->last);
}

/*
 * Keys that are numbers, or end with one, share a bucket with their neighbours:
 * rows that come together mostly have keys that follow each other, and the index
 * then has a few entries for a bundle in place of one for each row.
 */
int32
CdpBundleBucket(int64 attachment, const bytea *key)
{
	const char *data = VARDATA_ANY(key);
	int len = VARSIZE_ANY_EXHDR(key);
	char sought[MAX_SHORT + sizeof(uint64)];
	uint64 number = 0;
	int digits = 0;
	int prefix;

	/* a short one, not the MD5 of another */
	if (len > 0 && len <= MAX_SHORT && data[0] == len - 1)
		while (digits < len - 1 && data[len - 1 - digits] >= '0' && data[len - 1 - digits] <= '9')
			digits++;
	prefix = len - digits;
	for (int i = prefix; i < len; i++)
		number = number * 10 + (data[i] - '0');
	number /= NEIGHBOURS;
	if (prefix > MAX_SHORT)
		prefix = MAX_SHORT;
	/* the length of the key, which comes first, may be another one for its neighbour */
	memcpy(sought, &number, sizeof(number));
	if (digits == 0)
		memcpy(sought + sizeof(number), data, prefix);
	else
		memcpy(sought + sizeof(number), data + 1, --prefix);
	return (int32) (hash_bytes_extended((const unsigned char *) sought, sizeof(number) + prefix, (uint64) attachment) &
					((1 << BUCKET_BITS) - 1));
}

static int
compare_int4(const void *a, const void *b)
{
	int32 x = *(const int32 *) a;
	int32 y = *(const int32 *) b;

	return x < y ? -1 : x > y;
}

int
CdpBundleBucketsUnique(int32 *buckets, int n)
{
	qsort(buckets, n, sizeof(int32), compare_int4);
	return (int) qunique(buckets, n, sizeof(int32), compare_int4);
}

/*
 * cdp.bundle_buckets(attachment bigint, packed bytea) returns int[]: what the
 * index finds a bundle by.
 */
Datum
cdp_bundle_buckets(PG_FUNCTION_ARGS)
{
	int64 attachment = PG_GETARG_INT64(0);
	CdpBundleRow row = { .attachment = attachment };
	CdpBundleReader reader;
	CdpBundleItem item;
	int allocated = 128;
	int32 *buckets = palloc(sizeof(int32) * allocated);
	int n = 0;

	CdpBundleReaderBegin(&reader, &row, PG_GETARG_BYTEA_PP(1));
	while (CdpBundleReaderNext(&reader, &item))
	{
		if (n == allocated)
			buckets = repalloc(buckets, sizeof(int32) * (allocated *= 2));
		buckets[n++] = CdpBundleBucket(attachment, CdpBundleItemKey(&item));
	}
	n = CdpBundleBucketsUnique(buckets, n);
	PG_RETURN_DATUM(CdpInt4Array(buckets, n));
}
